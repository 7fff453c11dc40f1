//! Header blocks: names and values, compressed over one zlib stream for each direction of a connection.
//!
//! A block is never inflated beyond [`BLOCK_BYTES_MAX`], whatever it was before.

use super::dictionary;
use bytes::{Buf, BufMut, Bytes};
use flate2::{Compress, CompressError, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use thiserror::Error;

/// Most bytes that a block may inflate to.
pub(super) const BLOCK_BYTES_MAX: usize = 16 * 1024;
/// Most headers in one block.
const HEADERS_MAX: usize = 64;
/// Room that is made for compressed bytes at a time.
const DEFLATE_STEP: usize = 256;

/// Names (lower case) and values, in the order they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(super) Vec<(String, String)>);

impl Headers {
    /// The value of the header called `name` (lower case); "" when there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// Why a header block is of no use. The connection cannot go on: its compression has lost its place.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Not zlib, or another dictionary.
    #[error("a header block cannot be inflated")]
    Compression,
    /// It inflates to more than is taken.
    #[error("a header block is larger than {BLOCK_BYTES_MAX} bytes")]
    TooLarge,
    /// What it inflates to is no list of names and values.
    #[error("a header block makes no sense")]
    Malformed,
}

/// Inflates the blocks of one direction, in the order they come.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers in one block.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Bytes, HeaderError> {
        let mut text = vec![0_u8; BLOCK_BYTES_MAX + 1];
        let mut filled = 0;
        loop {
            let (taken, given) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress(block, &mut text[filled..], FlushDecompress::Sync);
            let taken = progress(self.0.total_in(), taken);
            block = block.get(taken..).ok_or(HeaderError::Compression)?;
            filled += progress(self.0.total_out(), given);
            if filled > BLOCK_BYTES_MAX {
                return Err(HeaderError::TooLarge);
            }
            match result {
                Ok(Status::Ok) if !block.is_empty() => {}
                Ok(Status::Ok | Status::BufError) if block.is_empty() => break,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(dictionary::bytes()).map_err(|_| HeaderError::Compression)?;
                }
                Ok(_) | Err(_) => return Err(HeaderError::Compression),
            }
        }
        text.truncate(filled);
        Ok(Bytes::from(text))
    }
}

fn progress(now: u64, before: u64) -> usize {
    usize::try_from(now - before).unwrap_or(usize::MAX)
}

fn parse(block: &[u8]) -> Result<Headers, HeaderError> {
    let mut rest = block;
    let count = number(&mut rest)?;
    if count > HEADERS_MAX {
        return Err(HeaderError::TooLarge);
    }
    let headers = (0..count).map(|_| Ok((text(&mut rest)?, text(&mut rest)?))).collect::<Result<Vec<_>, _>>()?;
    if rest.is_empty() { Ok(Headers(headers)) } else { Err(HeaderError::Malformed) }
}

fn number(rest: &mut &[u8]) -> Result<usize, HeaderError> {
    let number = rest.try_get_u32().map_err(|_| HeaderError::Malformed)?;
    usize::try_from(number).map_err(|_| HeaderError::Malformed)
}

fn text(rest: &mut &[u8]) -> Result<String, HeaderError> {
    let length = number(rest)?;
    let (text, behind) = rest.split_at_checked(length).ok_or(HeaderError::Malformed)?;
    *rest = behind;
    str::from_utf8(text).map(str::to_owned).map_err(|_| HeaderError::Malformed)
}

/// Compresses the blocks of one direction, in the order they go.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Result<Self, CompressError> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(dictionary::bytes())?;
        Ok(Self(deflate))
    }

    /// One block with these headers.
    pub(super) fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, CompressError> {
        let mut text = Vec::new();
        text.put_u32(length(headers.0.len()));
        for part in headers.0.iter().flat_map(|(name, value)| [name, value]) {
            text.put_u32(length(part.len()));
            text.put_slice(part.as_bytes());
        }
        let (mut block, mut text) = (Vec::new(), text.as_slice());
        loop {
            block.reserve(DEFLATE_STEP);
            let taken = self.0.total_in();
            self.0.compress_vec(text, &mut block, FlushCompress::Sync)?;
            text = text.get(progress(self.0.total_in(), taken)..).unwrap_or_default();
            // Room that is left means that everything, flush included, is out.
            if text.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
        }
    }
}

fn length(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_direction_share_their_compression() {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::new());
        let long = "x".repeat(10_000);
        let blocks: [Headers; 4] = [
            Headers::from([("streamtype", "data"), ("port", "80"), ("requestid", "0")]),
            Headers::default(),
            Headers::from([("streamtype", "data"), ("port", "80"), ("requestid", "1")]),
            Headers::from([("long", long.as_str())]),
        ];
        let mut sizes = Vec::new();
        for headers in &blocks {
            let block = deflater.write(headers).unwrap();
            sizes.push(block.len());
            assert_eq!(&inflater.read(&block).unwrap(), headers);
        }
        assert!(sizes[2] < sizes[0], "what was sent before is not sent again: {sizes:?}");
        assert_eq!((blocks[0].get("port"), blocks[0].get("nothing")), ("80", ""));
    }

    #[test]
    fn a_block_that_inflates_without_end_is_refused() {
        let mut deflater = Deflater::new().unwrap();
        let bomb = "x".repeat(10 << 20);
        let block = deflater.write(&Headers::from([("bomb", bomb.as_str())])).unwrap();
        assert!(block.len() < 200_000, "{} bytes of ten millions", block.len());
        assert_eq!(Inflater::new().read(&block), Err(HeaderError::TooLarge));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let mut plain = Compress::new(Compression::fast(), true);
        let mut other = Vec::with_capacity(100);
        plain.compress_vec(&[0, 0, 0, 9], &mut other, FlushCompress::Sync).unwrap();
        assert_eq!(Inflater::new().read(&other), Err(HeaderError::Malformed), "more headers said than there are");
        for garbage in [&[][..], &[0x78], &[0xff; 40], b"GET / HTTP/1.1\r\n\r\n"] {
            assert!(Inflater::new().read(garbage).is_err(), "{garbage:?}");
        }
        let mut strange = Compress::new(Compression::fast(), true);
        strange.set_dictionary(b"another dictionary").unwrap();
        let mut block = Vec::with_capacity(100);
        strange.compress_vec(&[0, 0, 0, 0], &mut block, FlushCompress::Sync).unwrap();
        assert_eq!(Inflater::new().read(&block), Err(HeaderError::Compression));
        for (text, error) in [
            (&[0xff_u8, 0xff, 0xff, 0xff][..], HeaderError::TooLarge),
            (&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], HeaderError::Malformed),
            (&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0], HeaderError::Malformed),
            (&[0, 0, 0, 0, 0], HeaderError::Malformed),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }
}
