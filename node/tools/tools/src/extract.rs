//! `tar -x`: files and directories from standard input. Nothing is put outside of the directory, whatever the names say;
//! links are left out.

use crate::header::{BLOCK_BYTES, DIRECTORY, FILE, GLOBAL_RECORDS, Header, LONG_LINK, LONG_NAME, RECORDS, padding};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

/// Most bytes of records and long names in front of a member.
const EXTRA_BYTES_MAX: u64 = 1 << 20;

pub fn run(directory: &Path) -> Result<(), String> {
    let mut input = io::BufReader::with_capacity(64 << 10, io::stdin().lock());
    let mut records = Vec::new();
    let mut long_name = None;
    let mut members = 0_u64;
    while let Some(mut header) = next(&mut input)? {
        members += 1;
        match header.kind {
            RECORDS => {
                records = extra(&mut input, &header)?;
                continue;
            }
            LONG_NAME => {
                let bytes = extra(&mut input, &header)?;
                let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                long_name = Some(String::from_utf8_lossy(name).into_owned());
                continue;
            }
            LONG_LINK | GLOBAL_RECORDS => {
                extra(&mut input, &header)?;
                continue;
            }
            _ => {}
        }
        header.name = long_name.take().unwrap_or(header.name);
        header.apply(&std::mem::take(&mut records))?;
        let size = if header.kind == DIRECTORY { 0 } else { header.size };
        let mut body = (&mut input).take(size);
        member(directory, &header, &mut body)?;
        // What was not wanted of it, and up to the next block.
        let left = body.limit() + padding(size) as u64;
        let skipped = io::copy(&mut (&mut input).take(left), &mut io::sink()).map_err(|error| error.to_string())?;
        if skipped < left {
            return Err("unexpected end of the archive".to_owned());
        }
    }
    if members == 0 {
        return Err("this does not look like a tar archive".to_owned());
    }
    // Who writes must not find that nobody reads.
    io::copy(&mut input, &mut io::sink()).map(drop).map_err(|error| error.to_string())
}

fn next(input: &mut impl Read) -> Result<Option<Header>, String> {
    let mut block = [0; BLOCK_BYTES];
    let mut filled = 0;
    while filled < BLOCK_BYTES {
        match input.read(&mut block[filled..]).map_err(|error| error.to_string())? {
            // Without the blocks that should end it; so be it.
            0 if filled == 0 => return Ok(None),
            0 => return Err("unexpected end of the archive".to_owned()),
            count => filled += count,
        }
    }
    Header::read(&block)
}

fn extra(input: &mut impl Read, header: &Header) -> Result<Vec<u8>, String> {
    if header.size > EXTRA_BYTES_MAX {
        return Err("a name is too long".to_owned());
    }
    let mut bytes = vec![0; header.size as usize + padding(header.size)];
    input.read_exact(&mut bytes).map_err(|_| "unexpected end of the archive".to_owned())?;
    bytes.truncate(header.size as usize);
    Ok(bytes)
}

fn member(directory: &Path, header: &Header, body: &mut impl Read) -> Result<(), String> {
    let wrong = |error: io::Error| format!("{}: {error}", header.name);
    let mut path = PathBuf::from(directory);
    for part in Path::new(&header.name).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => return Err(format!("{}: a name with '..' is refused", header.name)),
            _ => {}
        }
    }
    match header.kind {
        DIRECTORY => fs::create_dir_all(&path).map_err(wrong),
        // What an archive of old calls a contiguous file is one.
        FILE | b'7' => {
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
                fs::create_dir_all(parent).map_err(wrong)?;
            }
            let mut file = File::create(&path).map_err(wrong)?;
            let copied = io::copy(body, &mut file).map_err(wrong)?;
            if copied < header.size {
                return Err("unexpected end of the archive".to_owned());
            }
            Ok(())
        }
        _ => {
            eprintln!("tar: {}: neither file nor directory, left out", header.name);
            Ok(())
        }
    }
}
