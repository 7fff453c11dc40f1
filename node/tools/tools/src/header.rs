//! A member's header: 512 bytes as POSIX has them (ustar), numbers in octal, and what does not fit in a record before it.

pub const BLOCK_BYTES: usize = 512;
pub const FILE: u8 = b'0';
pub const SYMBOLIC_LINK: u8 = b'2';
pub const DIRECTORY: u8 = b'5';
/// Records for the next member.
pub const RECORDS: u8 = b'x';
/// Records for all members.
pub const GLOBAL_RECORDS: u8 = b'g';
/// GNU: the next member's name.
pub const LONG_NAME: u8 = b'L';
/// GNU: what the next member links to.
pub const LONG_LINK: u8 = b'K';

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const OWNER: std::ops::Range<usize> = 108..116;
const GROUP: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const TIME: std::ops::Range<usize> = 136..148;
const SUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const PREFIX: std::ops::Range<usize> = 345..500;

/// What is said of one member.
#[derive(Debug, Clone, Default)]
pub struct Header {
    pub name: String,
    pub link: String,
    pub kind: u8,
    pub size: u64,
    /// Seconds since 1970.
    pub time: u64,
}

impl Header {
    /// The blocks in front of the member's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let fits = self.name.len() <= NAME.len() && self.link.len() <= LINK.len() && self.size < 1 << 33;
        let mut bytes = Vec::new();
        if !fits {
            let mut records = record("path", &self.name);
            records.extend(record("size", &self.size.to_string()));
            if !self.link.is_empty() {
                records.extend(record("linkpath", &self.link));
            }
            let size = records.len() as u64;
            let before = Self { name: "records".to_owned(), kind: RECORDS, size, ..Self::default() };
            bytes.extend(before.block());
            bytes.extend(&records);
            bytes.resize(bytes.len() + padding(size), 0);
        }
        bytes.extend(self.block());
        bytes
    }

    fn block(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        put(&mut block[NAME], self.name.as_bytes());
        put(&mut block[MODE], if self.kind == DIRECTORY { b"0000755" } else { b"0000644" });
        put(&mut block[OWNER], b"0000000");
        put(&mut block[GROUP], b"0000000");
        // Where it does not fit, a record says it.
        put(&mut block[SIZE], format!("{:011o}", self.size & ((1 << 33) - 1)).as_bytes());
        put(&mut block[TIME], format!("{:011o}", self.time & ((1 << 33) - 1)).as_bytes());
        block[KIND] = self.kind;
        put(&mut block[LINK], self.link.as_bytes());
        put(&mut block[MAGIC], b"ustar\x0000");
        let sum = sum(&block);
        put(&mut block[SUM], format!("{sum:06o}\0 ").as_bytes());
        block
    }

    /// Reads a block; `None` for one of zeros, which ends an archive.
    pub fn read(block: &[u8; BLOCK_BYTES]) -> Result<Option<Self>, String> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if number(&block[SUM])? != u64::from(sum(block)) {
            return Err("this does not look like a tar archive".to_owned());
        }
        let (mut name, prefix) = (text(&block[NAME]), text(&block[PREFIX]));
        if block[MAGIC].starts_with(b"ustar\0") && !prefix.is_empty() {
            name = format!("{prefix}/{name}");
        }
        let kind = if block[KIND] == 0 { FILE } else { block[KIND] };
        let (size, time) = (number(&block[SIZE])?, number(&block[TIME]).unwrap_or(0));
        Ok(Some(Self { name, link: text(&block[LINK]), kind, size, time }))
    }

    /// Takes what records say instead.
    pub fn apply(&mut self, records: &[u8]) -> Result<(), String> {
        let wrong = || "a record makes no sense".to_owned();
        let mut rest = records;
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let length: usize =
                str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
            let record = rest.get(space + 1..length).ok_or_else(wrong)?;
            rest = &rest[length..];
            let text = str::from_utf8(record).map_err(|_| wrong())?;
            let (key, value) = text.trim_end_matches('\n').split_once('=').ok_or_else(wrong)?;
            match key {
                "path" => value.clone_into(&mut self.name),
                "linkpath" => value.clone_into(&mut self.link),
                "size" => self.size = value.parse().map_err(|_| wrong())?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Zeros behind this many bytes, up to the next block.
pub fn padding(size: u64) -> usize {
    let rest = (size % BLOCK_BYTES as u64) as usize;
    if rest == 0 { 0 } else { BLOCK_BYTES - rest }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let count = bytes.len().min(field.len());
    field[..count].copy_from_slice(&bytes[..count]);
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// Octal, or GNU's binary form for what is too large for that.
fn number(field: &[u8]) -> Result<u64, String> {
    if field[0] == 0x80 {
        return Ok(field[1..].iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte)));
    }
    let text = text(field);
    let text = text.trim();
    if text.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(text, 8).map_err(|_| "a number in a header makes no sense".to_owned())
}

/// The sum of all bytes, where its own field counts as spaces.
fn sum(block: &[u8; BLOCK_BYTES]) -> u32 {
    let byte = |(place, byte): (usize, &u8)| u32::from(if SUM.contains(&place) { b' ' } else { *byte });
    block.iter().enumerate().map(byte).sum()
}
