//! The bytes that nodes say to each other: what begins a stream, how it is answered, and datagrams. Values only.
//!
//! ```text
//! stream    family(4|6)  from address, port  to address, port          answered by one byte
//! datagram  kind(0 whole, 1 part, 2 refused)
//!           whole, refused: family  from address, port  to address, port  (whole: content)
//!           part: number u32, index u8, count u8, a part of what a whole one has after its kind
//! ```

use crate::fabric::DialFailure;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest pair of addresses, in bytes, with the family in front.
pub(super) const ADDRESSES_BYTES_MAX: usize = 1 + 2 * (16 + 2);
/// What stands before a part of a datagram, in bytes.
pub(super) const PART_HEADER_BYTES: usize = 1 + 4 + 1 + 1;

const FAMILY_4: u8 = 4;
const FAMILY_6: u8 = 6;
const KIND_WHOLE: u8 = 0;
const KIND_PART: u8 = 1;
const KIND_REFUSED: u8 = 2;

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
}

/// What arrived is nothing that a node sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage;

/// Bytes that follow a stream's first one, which says the family.
pub(super) fn rest_of_addresses(family: u8) -> Result<usize, Garbage> {
    match family {
        FAMILY_4 => Ok(2 * (4 + 2)),
        FAMILY_6 => Ok(2 * (16 + 2)),
        _ => Err(Garbage),
    }
}

impl Addresses {
    pub(super) fn write(self, to: &mut BytesMut) {
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => to.put_u8(FAMILY_4),
            _ => to.put_u8(FAMILY_6),
        }
        let is_short = matches!((self.from.ip(), self.to.ip()), (IpAddr::V4(_), IpAddr::V4(_)));
        for address in [self.from, self.to] {
            match (address.ip(), is_short) {
                (IpAddr::V4(ip), true) => to.put_slice(&ip.octets()),
                (IpAddr::V4(ip), false) => to.put_slice(&ip.to_ipv6_mapped().octets()),
                (IpAddr::V6(ip), _) => to.put_slice(&ip.octets()),
            }
            to.put_u16(address.port());
        }
    }

    /// Reads what [`Self::write`] wrote, and leaves what follows.
    pub(super) fn read(from: &mut impl Buf) -> Result<Self, Garbage> {
        let family = from.try_get_u8().map_err(|_| Garbage)?;
        if from.remaining() < rest_of_addresses(family)? {
            return Err(Garbage);
        }
        let mut address = || {
            let ip = if family == FAMILY_4 {
                IpAddr::V4(Ipv4Addr::from(from.get_u32()))
            } else {
                Ipv6Addr::from(from.get_u128()).to_canonical()
            };
            SocketAddr::new(ip, from.get_u16())
        };
        Ok(Self { from: address(), to: address() })
    }
}

/// A pod's answer to a stream as one byte.
pub(super) fn answer_byte(answer: Result<(), DialFailure>) -> u8 {
    match answer {
        Ok(()) => 0,
        Err(DialFailure::Refused) => 1,
        Err(DialFailure::Unreachable) => 2,
        Err(DialFailure::TimedOut) => 3,
        Err(DialFailure::Denied) => 4,
        Err(DialFailure::TooMany) => 5,
    }
}

/// What a byte says; one that says nothing is no way to anywhere.
pub(super) fn answer_of(byte: u8) -> Result<(), DialFailure> {
    match byte {
        0 => Ok(()),
        1 => Err(DialFailure::Refused),
        3 => Err(DialFailure::TimedOut),
        4 => Err(DialFailure::Denied),
        5 => Err(DialFailure::TooMany),
        _ => Err(DialFailure::Unreachable),
    }
}

/// What one QUIC datagram holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A datagram of a pod.
    Whole(Addresses, Bytes),
    /// A part of one that is too long.
    Part(Part),
    /// Nobody takes what `from` sends to `to`.
    Refused(Addresses),
}

/// A part of a long datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Which datagram.
    pub(super) number: u32,
    /// Which part of it.
    pub(super) index: u8,
    /// How many there are.
    pub(super) count: u8,
    /// Its bytes.
    pub(super) bytes: Bytes,
}

impl Frame {
    pub(super) fn read(mut datagram: Bytes) -> Result<Self, Garbage> {
        match datagram.try_get_u8().map_err(|_| Garbage)? {
            KIND_WHOLE => Self::read_whole(datagram),
            KIND_REFUSED => {
                let addresses = Addresses::read(&mut datagram)?;
                if datagram.is_empty() { Ok(Self::Refused(addresses)) } else { Err(Garbage) }
            }
            KIND_PART if datagram.len() > PART_HEADER_BYTES - 1 => {
                let (number, index, count) = (datagram.get_u32(), datagram.get_u8(), datagram.get_u8());
                if index >= count {
                    Err(Garbage)
                } else {
                    Ok(Self::Part(Part { number, index, count, bytes: datagram }))
                }
            }
            _ => Err(Garbage),
        }
    }

    /// A whole datagram without the byte that says so: what its parts make together.
    pub(super) fn read_whole(mut content: Bytes) -> Result<Self, Garbage> {
        Ok(Self::Whole(Addresses::read(&mut content)?, content))
    }
}

/// A datagram of a pod, as it is sent where it fits.
pub(super) fn whole(addresses: Addresses, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + ADDRESSES_BYTES_MAX + bytes.len());
    frame.put_u8(KIND_WHOLE);
    addresses.write(&mut frame);
    frame.put_slice(bytes);
    frame.freeze()
}

/// That nobody takes what comes from there.
pub(super) fn refused(addresses: Addresses) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + ADDRESSES_BYTES_MAX);
    frame.put_u8(KIND_REFUSED);
    addresses.write(&mut frame);
    frame.freeze()
}

/// What [`whole`] made, in parts that each fit into `bytes_max`. Nothing where that is too little.
pub(super) fn parts(whole: &Bytes, number: u32, bytes_max: usize) -> Vec<Bytes> {
    let Some(room) = bytes_max.checked_sub(PART_HEADER_BYTES).filter(|room| *room > 0) else { return Vec::new() };
    let content = whole.slice(1..);
    let Ok(count) = u8::try_from(content.len().div_ceil(room)) else { return Vec::new() };
    let part = |(index, bytes): (u8, &[u8])| {
        let mut frame = BytesMut::with_capacity(PART_HEADER_BYTES + bytes.len());
        frame.put_u8(KIND_PART);
        frame.put_u32(number);
        frame.put_u8(index);
        frame.put_u8(count);
        frame.put_slice(bytes);
        frame.freeze()
    };
    (0..count).zip(content.chunks(room)).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(from: &str, to: &str) -> Addresses {
        Addresses { from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    #[test]
    fn addresses_are_read_as_they_were_written() {
        let rows = [
            (addresses("10.244.0.3:80", "10.244.4.7:65535"), 13),
            (addresses("[fd00::1]:1", "[fd00::2]:2"), 37),
            (addresses("10.0.0.1:1", "[fd00::2]:2"), 37),
        ];
        for (row, length) in rows {
            let mut bytes = BytesMut::new();
            row.write(&mut bytes);
            assert_eq!(bytes.len(), length);
            assert_eq!(rest_of_addresses(bytes[0]), Ok(length - 1));
            assert_eq!(Addresses::read(&mut bytes.clone()), Ok(row));
            for cut in 0..length {
                assert_eq!(Addresses::read(&mut &bytes[..cut]), Err(Garbage), "{cut}");
            }
        }
    }

    #[test]
    fn every_answer_is_heard_as_it_was_given() {
        use DialFailure::{Denied, Refused, TimedOut, TooMany, Unreachable};
        for answer in [Ok(()), Err(Refused), Err(Unreachable), Err(TimedOut), Err(Denied), Err(TooMany)] {
            assert_eq!(answer_of(answer_byte(answer)), answer);
        }
        assert_eq!(answer_of(99), Err(Unreachable));
    }

    #[test]
    fn what_is_too_long_goes_in_parts_and_what_cannot_does_not_go() {
        let row = addresses("10.244.0.3:80", "10.244.4.7:53");
        let frame = whole(row, &vec![7; 65_507]);
        let all = parts(&frame, 9, 1_200);
        assert!(all.iter().all(|part| part.len() <= 1_200));
        let mut content = BytesMut::new();
        for (index, part) in (0_u8..).zip(&all) {
            let Ok(Frame::Part(part)) = Frame::read(part.clone()) else { panic!("{part:?}") };
            assert_eq!((part.number, part.index, usize::from(part.count)), (9, index, all.len()));
            content.extend_from_slice(&part.bytes);
        }
        assert_eq!(Frame::read_whole(content.freeze()), Ok(Frame::Whole(row, Bytes::from(vec![7; 65_507]))));
        assert!(parts(&frame, 9, PART_HEADER_BYTES).is_empty());
        assert!(parts(&frame, 9, 100).is_empty(), "more parts than can be counted");
    }

    proptest! {
        #[test]
        fn garbage_is_garbage_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            if let Ok(Frame::Part(part)) = Frame::read(bytes.clone()) {
                prop_assert!(part.index < part.count);
            }
            let _any = Addresses::read(&mut bytes.clone());
        }

        #[test]
        fn datagrams_are_read_as_they_were_sent(content in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let row = addresses("10.244.0.3:80", "10.244.4.7:53");
            let read = Frame::read(whole(row, &content));
            prop_assert_eq!(read, Ok(Frame::Whole(row, Bytes::from(content))));
            prop_assert_eq!(Frame::read(refused(row)), Ok(Frame::Refused(row)));
        }
    }
}
