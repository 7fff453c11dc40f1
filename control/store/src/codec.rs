//! How commands and records look in the log and on disk: a version byte, then fields in a fixed order; numbers as base-128
//! varints, byte strings behind their length.
//!
//! Written by hand so that it is the same bytes on every server and version, and so that a decoded value shares the
//! entry's buffer instead of being copied. Decoding checks every length against what is left and never allocates more than
//! the input holds.

use crate::command::{Command, CounterChange, Expect, Key, Op, Revision, UniqueChange};
use bytes::Bytes;
use thiserror::Error;

/// First byte of everything encoded here.
const VERSION: u8 = 1;

/// What a log entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A change of state.
    Command(Command),
    /// Forget history before this revision.
    Compact(Revision),
}

/// Bytes that are not what was encoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The input ends too early or a length is wrong.
    #[error("truncated at byte {0}")]
    Truncated(usize),
    /// Written by a newer version, or not by us.
    #[error("unknown version {0}")]
    Version(u8),
    /// A discriminant that does not exist.
    #[error("unknown tag {tag} at byte {at}")]
    Tag {
        /// The discriminant.
        tag: u8,
        /// Where it stands.
        at: usize,
    },
    /// A string is not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    Utf8(usize),
    /// Bytes follow the last field.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

impl Payload {
    /// Encodes a command without taking it.
    #[must_use]
    pub fn encode_command(command: &Command) -> Vec<u8> {
        let mut out = Vec::with_capacity(encoded_len_hint(command));
        out.extend_from_slice(&[VERSION, 0]);
        put_u64(&mut out, command.ops.len() as u64);
        for op in &command.ops {
            encode_op(&mut out, op);
        }
        put_u64(&mut out, command.counters.len() as u64);
        for change in &command.counters {
            put_bytes(&mut out, change.name.as_bytes());
            put_i64(&mut out, change.delta);
            put_option(&mut out, change.limit, put_i64);
        }
        put_u64(&mut out, command.uniques.len() as u64);
        for change in &command.uniques {
            put_bytes(&mut out, change.key.as_bytes());
            put_option(&mut out, change.holder.as_deref(), |out, holder| put_bytes(out, holder.as_bytes()));
        }
        out
    }

    /// Encodes a compaction.
    #[must_use]
    pub fn encode_compact(revision: Revision) -> Vec<u8> {
        let mut out = vec![VERSION, 1];
        put_u64(&mut out, revision.0);
        out
    }

    /// The inverse of the encoders; values share `bytes`.
    ///
    /// # Errors
    /// When `bytes` was not written by this module.
    pub fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes)?;
        let payload = match reader.tag()? {
            0 => Self::Command(decode_command(&mut reader, bytes)?),
            1 => Self::Compact(Revision(reader.u64()?)),
            tag => return Err(reader.unknown(tag)),
        };
        reader.finish()?;
        Ok(payload)
    }
}

fn encoded_len_hint(command: &Command) -> usize {
    let ops: usize = command
        .ops
        .iter()
        .map(|op| match op {
            Op::Put { key, value, .. } => key.0.len() + value.len() + 32,
            Op::Delete { key, .. } | Op::Check { key, .. } => key.0.len() + 16,
        })
        .sum();
    let counters: usize = command.counters.iter().map(|change| change.name.len() + 24).sum();
    let uniques: usize =
        command.uniques.iter().map(|change| change.key.len() + change.holder.as_ref().map_or(0, String::len) + 8).sum();
    16 + ops + counters + uniques
}

fn encode_op(out: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Put { key, value, splice_at, expect } => {
            out.push(0);
            put_bytes(out, key.0.as_bytes());
            encode_expect(out, *expect);
            put_option(out, *splice_at, |out, at| put_u64(out, u64::from(at)));
            put_bytes(out, value);
        }
        Op::Delete { key, expect } => {
            out.push(1);
            put_bytes(out, key.0.as_bytes());
            encode_expect(out, *expect);
        }
        Op::Check { key, expect } => {
            out.push(2);
            put_bytes(out, key.0.as_bytes());
            encode_expect(out, *expect);
        }
    }
}

fn encode_expect(out: &mut Vec<u8>, expect: Expect) {
    match expect {
        Expect::Absent => out.push(0),
        Expect::Revision(revision) => {
            out.push(1);
            put_u64(out, revision.0);
        }
        Expect::Present => out.push(2),
    }
}

fn decode_command(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Command, CodecError> {
    let ops = reader.list(|reader| decode_op(reader, bytes))?;
    let counters = reader.list(|reader| {
        Ok(CounterChange { name: reader.string()?, delta: reader.i64()?, limit: reader.option(Reader::i64)? })
    })?;
    let uniques =
        reader.list(|reader| Ok(UniqueChange { key: reader.string()?, holder: reader.option(Reader::string)? }))?;
    Ok(Command { ops, counters, uniques })
}

fn decode_op(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Op, CodecError> {
    match reader.tag()? {
        0 => {
            let key = Key(reader.string()?);
            let expect = decode_expect(reader)?;
            let splice_at = reader.option(Reader::u32)?;
            let value = bytes.slice_ref(reader.bytes()?);
            Ok(Op::Put { key, value, splice_at, expect })
        }
        1 => Ok(Op::Delete { key: Key(reader.string()?), expect: decode_expect(reader)? }),
        2 => Ok(Op::Check { key: Key(reader.string()?), expect: decode_expect(reader)? }),
        tag => Err(reader.unknown(tag)),
    }
}

fn decode_expect(reader: &mut Reader<'_>) -> Result<Expect, CodecError> {
    match reader.tag()? {
        0 => Ok(Expect::Absent),
        1 => Ok(Expect::Revision(Revision(reader.u64()?))),
        2 => Ok(Expect::Present),
        tag => Err(reader.unknown(tag)),
    }
}

/// Begins a record: the version byte.
pub(crate) fn begin(out: &mut Vec<u8>) {
    out.push(VERSION);
}

pub(crate) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Signed numbers interleaved with the unsigned ones, so that small negative ones stay short.
pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            put(out, value);
        }
    }
}

/// A cursor over encoded bytes.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Checks the version byte.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let mut reader = Self { bytes, at: 0 };
        match reader.tag()? {
            VERSION => Ok(reader),
            other => Err(CodecError::Version(other)),
        }
    }

    pub(crate) fn tag(&mut self) -> Result<u8, CodecError> {
        let tag = *self.bytes.get(self.at).ok_or(CodecError::Truncated(self.at))?;
        self.at += 1;
        Ok(tag)
    }

    pub(crate) fn unknown(&self, tag: u8) -> CodecError {
        CodecError::Tag { tag, at: self.at.saturating_sub(1) }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.tag()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.unknown(0xff))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        let at = self.at;
        u32::try_from(self.u64()?).map_err(|_| CodecError::Tag { tag: 0xff, at })
    }

    pub(crate) fn i64(&mut self) -> Result<i64, CodecError> {
        let value = self.u64()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let length = usize::try_from(self.u64()?).map_err(|_| CodecError::Truncated(self.at))?;
        let end = self.at.checked_add(length).ok_or(CodecError::Truncated(self.at))?;
        let slice = self.bytes.get(self.at..end).ok_or(CodecError::Truncated(self.at))?;
        self.at = end;
        Ok(slice)
    }

    pub(crate) fn string(&mut self) -> Result<String, CodecError> {
        let at = self.at;
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| CodecError::Utf8(at))
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        match self.tag()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            tag => Err(self.unknown(tag)),
        }
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T, CodecError>) -> Result<Vec<T>, CodecError> {
        let length = self.u64()?;
        // Every element takes at least one byte: a larger count cannot be true.
        let left = self.bytes.len() - self.at;
        let length =
            usize::try_from(length).ok().filter(|length| *length <= left).ok_or(CodecError::Truncated(self.at))?;
        let mut list = Vec::with_capacity(length.min(1024));
        for _ in 0..length {
            list.push(read(self)?);
        }
        Ok(list)
    }

    /// Checks that nothing is left.
    pub(crate) fn finish(&self) -> Result<(), CodecError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(CodecError::Trailing(left)),
        }
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expect() -> impl Strategy<Value = Expect> {
        prop_oneof![
            Just(Expect::Absent),
            Just(Expect::Present),
            any::<u64>().prop_map(|at| Expect::Revision(Revision(at)))
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        let bytes = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        prop_oneof![
            (".{0,40}", bytes, any::<Option<u32>>(), expect()).prop_map(|(key, value, splice_at, expect)| Op::Put {
                key: Key(key),
                value,
                splice_at,
                expect
            }),
            (".{0,40}", expect()).prop_map(|(key, expect)| Op::Delete { key: Key(key), expect }),
            (".{0,40}", expect()).prop_map(|(key, expect)| Op::Check { key: Key(key), expect }),
        ]
    }

    fn command() -> impl Strategy<Value = Command> {
        let counter = (".{0,9}", any::<i64>(), any::<Option<i64>>()).prop_map(|(name, delta, limit)| CounterChange {
            name,
            delta,
            limit,
        });
        let unique = (".{0,9}", any::<Option<String>>()).prop_map(|(key, holder)| UniqueChange { key, holder });
        (prop::collection::vec(op(), 0..6), prop::collection::vec(counter, 0..4), prop::collection::vec(unique, 0..4))
            .prop_map(|(ops, counters, uniques)| Command { ops, counters, uniques })
    }

    proptest! {
        #[test]
        fn commands_come_back_as_they_were(command in command()) {
            let encoded = Bytes::from(Payload::encode_command(&command));
            prop_assert_eq!(Payload::decode(&encoded), Ok(Payload::Command(command)));
        }

        #[test]
        fn no_cut_or_byte_makes_decoding_fail_badly(
            command in command(), cut in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut encoded = Payload::encode_command(&command);
            let at = cut.index(encoded.len());
            prop_assert!(Payload::decode(&Bytes::copy_from_slice(&encoded[..at])).is_err());
            encoded[at] = byte;
            // Whatever it makes of it, it ends and what it accepts is well-formed.
            if let Ok(Payload::Command(other)) = Payload::decode(&Bytes::from(encoded)) {
                let again = Bytes::from(Payload::encode_command(&other));
                prop_assert_eq!(Payload::decode(&again), Ok(Payload::Command(other)));
            }
        }

        #[test]
        fn numbers_come_back(unsigned in any::<u64>(), signed in any::<i64>()) {
            let mut out = vec![VERSION];
            put_u64(&mut out, unsigned);
            put_i64(&mut out, signed);
            let mut reader = Reader::new(&out).unwrap();
            prop_assert_eq!(reader.u64(), Ok(unsigned));
            prop_assert_eq!(reader.i64(), Ok(signed));
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        for (bytes, error) in [
            (&[][..], CodecError::Truncated(0)),
            (&[9, 0], CodecError::Version(9)),
            (&[1, 7], CodecError::Tag { tag: 7, at: 1 }),
            (&[1, 1, 5, 0], CodecError::Trailing(1)),
            // A list that claims more elements than there are bytes must not reserve room for them.
            (&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f], CodecError::Truncated(7)),
        ] {
            assert_eq!(Payload::decode(&Bytes::copy_from_slice(bytes)), Err(error), "{bytes:?}");
        }
        // Eleven bytes of varint are more than 64 bits.
        assert!(Payload::decode(&Bytes::from(vec![1, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2])).is_err());
    }

    #[test]
    fn values_share_the_entry() {
        let value = Bytes::from(vec![7; 1000]);
        let op = Op::Put { key: Key("k".into()), value, splice_at: None, expect: Expect::Absent };
        let encoded = Bytes::from(Payload::encode_command(&Command { ops: vec![op], ..Command::default() }));
        let Ok(Payload::Command(command)) = Payload::decode(&encoded) else { panic!("decodes") };
        let Op::Put { value, .. } = &command.ops[0] else { panic!("a put") };
        assert!(encoded.as_ptr_range().contains(&value.as_ptr()));
    }
}
