//! Finding wasm modules in a tar archive (POSIX ustar and pax, GNU long names). Names are only looked at, never used as
//! paths; nothing but regular files counts; every length is bounded.

use std::io::{self, Read};

const BLOCK_BYTES: u64 = 512;
/// Most entries that are looked at.
const ENTRIES_MAX: usize = 100_000;
/// Longest record of names and attributes.
const RECORD_BYTES_MAX: u64 = 64 * 1024;
/// What a file is called whose namesake in an earlier layer is gone (OCI image layers).
const WHITEOUT: &str = ".wh.";
const WASM_SUFFIX: &str = ".wasm";

/// Something that an archive says about modules.
pub(crate) enum Found<'a> {
    /// A file that ends in `.wasm`.
    Module { path: &'a str, bytes: &'a mut dyn Read, size_bytes: u64 },
    /// The file of this name in earlier layers is gone.
    Gone { path: &'a str },
}

/// Reads an archive and tells `take` what is in it, in order.
///
/// # Errors
/// When it is no archive, breaks a bound, names a path that leaves it, or `take` fails.
pub(crate) fn read(mut archive: impl Read, take: &mut dyn FnMut(Found<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut overrides = Overrides::default();
    for _ in 0..ENTRIES_MAX {
        let mut header = [0_u8; 512];
        if !read_block(&mut archive, &mut header)? || header.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        check_sum(&header)?;
        let kind = header[156];
        let size_bytes = match overrides.size_bytes {
            Some(size_bytes) if !matches!(kind, b'x' | b'g' | b'L' | b'K') => size_bytes,
            _ => number(&header[124..136])?,
        };
        let padded = size_bytes.checked_next_multiple_of(BLOCK_BYTES).ok_or_else(|| wrong("a size is too large"))?;
        let mut content = (&mut archive).take(padded);
        match kind {
            b'x' => overrides.pax(&record(&mut content, size_bytes)?)?,
            b'L' => overrides.path = Some(text(&record(&mut content, size_bytes)?)?),
            b'g' | b'K' => {}
            _ => {
                let path = match overrides.path.take() {
                    Some(path) => path,
                    None => header_path(&header)?,
                };
                overrides = Overrides::default();
                if matches!(kind, b'0' | b'\0' | b'7') {
                    file(&path, &mut content, size_bytes, take)?;
                }
            }
        }
        io::copy(&mut content, &mut io::sink())?;
        if content.limit() > 0 {
            return Err(wrong("it ends in the middle of a file"));
        }
    }
    Err(wrong("it has too many entries"))
}

/// What the next entry has instead of its header's fields.
#[derive(Default)]
struct Overrides {
    path: Option<String>,
    size_bytes: Option<u64>,
}

impl Overrides {
    /// `LENGTH KEY=VALUE\n`, where the length counts all of it.
    fn pax(&mut self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(|| wrong("a pax record is broken"))?;
            let length = str::from_utf8(&records[..space]).ok().and_then(|text| text.parse::<usize>().ok());
            let length = length.filter(|length| (space + 2..=records.len()).contains(length));
            let length = length.ok_or_else(|| wrong("a pax record has a wrong length"))?;
            let pair = text(&records[space + 1..length - 1])?;
            match pair.split_once('=') {
                Some(("path", path)) => self.path = Some(path.to_owned()),
                Some(("size", size)) => {
                    self.size_bytes = Some(size.parse().map_err(|_| wrong("a pax size is no number"))?);
                }
                _ => {}
            }
            records = &records[length..];
        }
        Ok(())
    }
}

fn file(
    path: &str,
    content: &mut dyn Read,
    size_bytes: u64,
    take: &mut dyn FnMut(Found<'_>) -> io::Result<()>,
) -> io::Result<()> {
    if path.split('/').any(|part| part == "..") {
        return Err(wrong("it names a path that leads out of it"));
    }
    let base = path.rsplit('/').next().unwrap_or_default();
    if let Some(gone) = base.strip_prefix(WHITEOUT) {
        return if gone.ends_with(WASM_SUFFIX) { take(Found::Gone { path: gone }) } else { Ok(()) };
    }
    if !base.ends_with(WASM_SUFFIX) {
        return Ok(());
    }
    take(Found::Module { path, bytes: &mut content.take(size_bytes), size_bytes })
}

/// Whether there was another block.
fn read_block(archive: &mut impl Read, block: &mut [u8; 512]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < block.len() {
        match archive.read(&mut block[filled..])? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(wrong("it ends in the middle of a header")),
            count => filled += count,
        }
    }
    Ok(true)
}

fn record(content: &mut impl Read, size_bytes: u64) -> io::Result<Vec<u8>> {
    if size_bytes > RECORD_BYTES_MAX {
        return Err(wrong("a name is too long"));
    }
    let mut bytes = Vec::new();
    content.take(size_bytes).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_sum(header: &[u8; 512]) -> io::Result<()> {
    let summed: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte }))
        .sum();
    if number(&header[148..156])? == summed { Ok(()) } else { Err(wrong("a header's checksum is wrong")) }
}

/// Octal digits, or a big-endian number behind a first bit that is set.
fn number(field: &[u8]) -> io::Result<u64> {
    let too_large = || wrong("a number is too large");
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        let start = u64::from(first & 0x7f);
        return rest.iter().try_fold(start, |sum, byte| {
            sum.checked_mul(256).and_then(|sum| sum.checked_add(u64::from(*byte))).ok_or_else(too_large)
        });
    }
    let digits = field.iter().copied().skip_while(|byte| *byte == b' ').take_while(|byte| !matches!(byte, b' ' | 0));
    digits.into_iter().try_fold(0_u64, |sum, byte| match byte {
        b'0'..=b'7' => sum.checked_mul(8).map(|sum| sum + u64::from(byte - b'0')).ok_or_else(too_large),
        _ => Err(wrong("a header's number is not octal")),
    })
}

fn header_path(header: &[u8; 512]) -> io::Result<String> {
    let name = text(&header[..100])?;
    let prefix =
        if &header[257..262] == b"ustar" && header[262] == 0 { text(&header[345..500])? } else { String::new() };
    Ok(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
}

/// Text up to the first NUL.
fn text(bytes: &[u8]) -> io::Result<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    str::from_utf8(&bytes[..end]).map(str::to_owned).map_err(|_| wrong("a name is not text"))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One entry of an archive.
    pub(crate) fn entry(path: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = vec![0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = kind;
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut all = header;
        all.extend_from_slice(content);
        all.resize(all.len().next_multiple_of(512), 0);
        all
    }

    fn list(archive: &[u8]) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        read(archive, &mut |one| {
            found.push(match one {
                Found::Module { path, bytes, size_bytes } => {
                    let mut content = String::new();
                    bytes.read_to_string(&mut content)?;
                    format!("{path} {size_bytes} {content}")
                }
                Found::Gone { path } => format!("no {path}"),
            });
            Ok(())
        })
        .map(|()| found)
        .map_err(|error| error.to_string())
    }

    #[test]
    fn modules_are_found_whatever_is_around_them() {
        let long = format!("{}/long.wasm", "d".repeat(120));
        let pax = format!("path={long}\n");
        let pax = format!("{} {pax}", pax.len() + 4);
        let archive = [
            entry("bin/", b'5', b""),
            entry("bin/a.wasm", b'0', b"first"),
            entry("etc/text", b'0', &[b'x'; 1000]),
            entry("link.wasm", b'2', b""),
            entry("name", b'L', format!("{long}\0").as_bytes()),
            entry("short", b'0', b"second"),
            entry("pax", b'x', pax.as_bytes()),
            entry("short", b'\0', b"third"),
            entry("bin/.wh.old.wasm", b'0', b""),
            vec![0; 1024],
            b"whatever follows".to_vec(),
        ]
        .concat();
        let expected = [
            "bin/a.wasm 5 first".to_owned(),
            format!("{long} 6 second"),
            format!("{long} 5 third"),
            "no old.wasm".into(),
        ];
        assert_eq!(list(&archive).unwrap(), expected);
        assert_eq!(list(b"").unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_broken_or_sly_is_refused() {
        let whole = entry("a.wasm", b'0', b"content");
        let mut huge = entry("a.wasm", b'0', b"");
        huge[124] = 0xff;
        huge[125..136].fill(0xff);
        let sum: u32 = huge
            .iter()
            .enumerate()
            .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
            .sum();
        huge[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        for (archive, expected) in [
            (b"not an archive".to_vec(), "in the middle of a header"),
            (vec![b'x'; 512], "not octal"),
            (whole[..520].to_vec(), "in the middle of a file"),
            (entry("../a.wasm", b'0', b""), "leads out of it"),
            (huge, "too large"),
            (entry("n", b'L', &b"a".repeat(70_000)), "a name is too long"),
            (entry("n", b'x', b"99 path=a\n"), "wrong length"),
            (entry("n", b'x', b"x"), "broken"),
        ] {
            let error = list(&archive).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let mut damaged = whole;
        damaged[0] = b'b';
        assert!(list(&damaged).unwrap_err().contains("checksum"));
    }
}
