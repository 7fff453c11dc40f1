//! IPv4 ranges such as `10.244.4.0/22`. Values only: who holds which range is decided elsewhere.

use std::{fmt, net::Ipv4Addr, str::FromStr};
use thiserror::Error;

/// Bits of an IPv4 address.
const ADDRESS_BITS: u8 = 32;

/// An IPv4 range, by its first address and the length of its prefix in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ipv4Range {
    first: u32,
    prefix_length: u8,
}

/// A text is no IPv4 range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no IPv4 range: wanted is an address and a prefix length, as in 10.244.0.0/16")]
pub struct NotARange(String);

impl Ipv4Range {
    /// The range around `address` whose prefix has `prefix_length` bits (more than 32 count as 32).
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix_length: u8) -> Self {
        let prefix_length = prefix_length.min(ADDRESS_BITS);
        Self { first: u32::from(address) & mask(prefix_length), prefix_length }
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix_length) == self.first
    }

    /// The network address.
    #[must_use]
    pub fn first(self) -> Ipv4Addr {
        self.first.into()
    }

    /// The broadcast address.
    #[must_use]
    pub fn last(self) -> Ipv4Addr {
        (self.first | !mask(self.prefix_length)).into()
    }
}

fn mask(prefix_length: u8) -> u32 {
    u32::MAX.checked_shl(u32::from(ADDRESS_BITS - prefix_length)).unwrap_or(0)
}

impl FromStr for Ipv4Range {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let parse = || {
            let (address, prefix_length) = text.split_once('/')?;
            let prefix_length = prefix_length.parse().ok().filter(|length| *length <= ADDRESS_BITS)?;
            Some(Self::new(address.parse().ok()?, prefix_length))
        };
        parse().ok_or_else(|| NotARange(text.to_owned()))
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.first(), self.prefix_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_its_addresses_and_no_other() {
        let rows = [
            ("10.244.4.0/22", "10.244.4.0", "10.244.7.255"),
            ("10.244.5.9/22", "10.244.4.0", "10.244.7.255"),
            ("10.0.0.1/32", "10.0.0.1", "10.0.0.1"),
            ("1.2.3.4/0", "0.0.0.0", "255.255.255.255"),
        ];
        for (text, first, last) in rows {
            let range: Ipv4Range = text.parse().unwrap();
            assert_eq!((range.first().to_string(), range.last().to_string()), (first.to_owned(), last.to_owned()));
            assert!(range.contains(range.first()) && range.contains(range.last()), "{text}");
            let outside = [u32::from(range.first()).checked_sub(1), u32::from(range.last()).checked_add(1)];
            assert!(outside.into_iter().flatten().all(|address| !range.contains(address.into())), "{text}");
        }
        assert_eq!("10.244.5.9/22".parse::<Ipv4Range>().unwrap().to_string(), "10.244.4.0/22");
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "/8", "10.0.0/8", "fd00::/8", "10.0.0.0/8/8"] {
            assert_eq!(text.parse::<Ipv4Range>(), Err(NotARange(text.to_owned())));
        }
    }
}
