//! How names are spelt: lengths, letters, and the names that addresses have.

use super::NameError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name (RFC 1035), the final dot not counted.
const NAME_LENGTH_MAX: usize = 253;
/// Longest label (RFC 1035).
pub(super) const LABEL_LENGTH_MAX: usize = 63;
/// Hexadecimal digits of an IPv6 address.
const DIGITS_OF_V6: usize = 32;

/// Lower-cases, takes off the final dot (the name is then complete), and checks lengths and letters.
pub(super) fn check(name: &str) -> Result<(String, bool), NameError> {
    let (name, is_complete) = match name.strip_suffix('.') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=LABEL_LENGTH_MAX).contains(&label.len()) && label.bytes().all(is_letter);
    if name.len() > NAME_LENGTH_MAX || !name.split('.').all(is_label) {
        return Err(NameError::Invalid);
    }
    Ok((name.to_ascii_lowercase(), is_complete))
}

/// The address that `d.c.b.a.in-addr.arpa`, or its like below `ip6.arpa`, is the name of.
pub(super) fn address_of_reverse_name(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let mut reversed: Vec<&str> = octets.split('.').collect();
        reversed.reverse();
        return Some(IpAddr::V4(reversed.join(".").parse::<Ipv4Addr>().ok()?));
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let digits: Option<Vec<u32>> = digits.split('.').rev().map(one_digit).collect();
    let digits = digits.filter(|digits| digits.len() == DIGITS_OF_V6)?;
    let bits = digits.into_iter().fold(0_u128, |bits, digit| (bits << 4) | u128::from(digit));
    Some(IpAddr::V6(Ipv6Addr::from(bits)))
}

fn one_digit(label: &str) -> Option<u32> {
    let mut letters = label.chars();
    let digit = letters.next()?.to_digit(16)?;
    letters.next().is_none().then_some(digit)
}

/// An address as a label, for endpoints without a host name and for pods: `10-244-0-5`, `fd00--5`.
pub(super) fn label_of_address(address: IpAddr) -> String {
    let label = address.to_string().replace(['.', ':'], "-");
    // A label neither begins nor ends with a hyphen.
    let begin = if label.starts_with('-') { "0" } else { "" };
    let end = if label.ends_with('-') { "0" } else { "" };
    format!("{begin}{label}{end}")
}

/// The address that a label like `10-244-0-5` stands for.
pub(super) fn address_of_pod_label(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}
