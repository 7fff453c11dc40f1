//! Which addresses were freed a moment ago, on disk: an agent that starts again must not give them to other pods at
//! once, since clients may still hold them.
//!
//! One line for each, appended when it is freed. Nothing is synced: after a crash of the whole machine nobody holds
//! connections to its pods, and an address that is missing here only rests too short.

use coracle_net::addresses::REST_MIN;
use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write},
    net::Ipv4Addr,
    path::PathBuf,
};
use time::OffsetDateTime;
use tracing::warn;

/// With more lines than this the file is written anew, with those that still count.
const LINES_MAX: usize = 4096;
/// A larger file is not ours.
const BYTES_MAX: u64 = 1 << 20;

/// See the module.
pub(super) struct Rests {
    path: PathBuf,
    /// Absent when it cannot be written.
    file: Option<File>,
    lines: usize,
    /// The newest last.
    recent: VecDeque<(Ipv4Addr, OffsetDateTime)>,
}

impl Rests {
    /// Reads what an earlier agent noted. What cannot be read counts as nothing.
    pub(super) fn open(path: PathBuf, now: OffsetDateTime) -> Self {
        let mut rests = Self { path, file: None, lines: 0, recent: VecDeque::new() };
        if fs::metadata(&rests.path).is_ok_and(|data| data.len() <= BYTES_MAX) {
            let text = fs::read_to_string(&rests.path).unwrap_or_default();
            rests.recent = text.lines().filter_map(parse).collect();
        }
        rests.rewrite(now);
        rests
    }

    /// The addresses that still have to rest.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.recent.iter().map(|(address, _)| *address)
    }

    /// Notes that an address is free from now on.
    pub(super) fn note(&mut self, address: Ipv4Addr, now: OffsetDateTime) {
        self.recent.push_back((address, now));
        if self.lines >= LINES_MAX {
            return self.rewrite(now);
        }
        let line = line(address, now);
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(line.as_bytes())
        {
            self.file = None;
            warn!(%error, "cannot note which addresses were freed");
        }
        self.lines += 1;
    }

    /// Forgets what has rested long enough.
    fn rewrite(&mut self, now: OffsetDateTime) {
        // A clock that was set back makes them rest again, not for ever.
        self.recent.retain(|(_, at)| (now - *at).abs() < REST_MIN);
        let text: String = self.recent.iter().map(|(address, at)| line(*address, *at)).collect();
        self.lines = self.recent.len();
        self.file = match self.replace(&text) {
            Ok(file) => Some(file),
            Err(error) => {
                warn!(%error, "cannot note which addresses were freed");
                None
            }
        };
    }

    fn replace(&self, text: &str) -> io::Result<File> {
        let new = self.path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.path)?;
        File::options().append(true).open(&self.path)
    }
}

fn line(address: Ipv4Addr, at: OffsetDateTime) -> String {
    format!("{address} {}\n", at.unix_timestamp())
}

fn parse(line: &str) -> Option<(Ipv4Addr, OffsetDateTime)> {
    let (address, at) = line.split_once(' ')?;
    Some((address.parse().ok()?, OffsetDateTime::from_unix_timestamp(at.parse().ok()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_freed_lately_is_remembered_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let open = |now| Rests::open(directory.path().join("rests"), now);
        let (start, address) = (OffsetDateTime::UNIX_EPOCH + Duration::from_hours(9), Ipv4Addr::new(10, 244, 0, 9));
        let mut rests = open(start);
        rests.note(address, start);
        let seen = |now| open(now).addresses().collect::<Vec<_>>();
        assert_eq!(seen(start + REST_MIN / 2), [address]);
        assert_eq!(seen(start + REST_MIN * 2), [] as [Ipv4Addr; 0]);
        assert_eq!(seen(start), [] as [Ipv4Addr; 0], "forgotten for good");
        fs::write(directory.path().join("rests"), format!("rubbish\n10.0.0.1\n{}x", line(address, start))).unwrap();
        assert_eq!(seen(start), [address]);
    }

    #[test]
    fn the_file_stays_small() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rests");
        let start = OffsetDateTime::UNIX_EPOCH + Duration::from_hours(9);
        let mut rests = Rests::open(path.clone(), start);
        for number in 0..3 * LINES_MAX {
            let at = start + REST_MIN * u32::try_from(number).unwrap();
            rests.note(Ipv4Addr::from(u32::try_from(number).unwrap()), at);
        }
        assert!(fs::read_to_string(&path).unwrap().lines().count() <= LINES_MAX);
        assert!(rests.recent.len() <= LINES_MAX + 1);
    }
}
