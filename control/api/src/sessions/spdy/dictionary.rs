//! What SPDY's header compression knows beforehand: a constant of the protocol (SPDY/3, section 2.6.10.1).
//!
//! It must never change: both sides of a connection begin with these bytes.

use std::sync::LazyLock;

/// Words that stand in the dictionary behind their length, as names and values do in a header block.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges \
    age allow authorization cache-control connection content-base content-encoding content-language content-length \
    content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// What follows them without lengths, in pieces: status codes, then texts.
const CODES: &str = "100 101 201 202 205 206 300 302 303 304 305 306 307 402 405 406 407 408 409 410 411 412 413 414 415 416 \
    417 502 504 505";
const TEXTS: &str = "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May \
    Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,\
    image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1500);
    for word in WORDS.split(' ') {
        bytes.extend_from_slice(&[0, 0, 0]);
        // Every word is shorter than 20 bytes.
        bytes.push(word.len().to_le_bytes()[0]);
        bytes.extend(word.bytes().map(|byte| if byte == b'_' { b' ' } else { byte }));
    }
    bytes.extend(CODES.bytes().filter(|byte| *byte != b' '));
    bytes.extend_from_slice(TEXTS.as_bytes());
    bytes
});

/// The bytes.
pub(super) fn bytes() -> &'static [u8] {
    &DICTIONARY
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length and Adler-32 checksum as the protocol's text gives them.
    #[test]
    fn the_dictionary_is_the_protocols() {
        let (low, high) = bytes().iter().fold((1_u32, 0_u32), |(low, high), byte| {
            let low = (low + u32::from(*byte)) % 65_521;
            (low, (high + low) % 65_521)
        });
        assert_eq!((bytes().len(), high << 16 | low), (1423, 0xe3c6_a7c2));
    }
}
