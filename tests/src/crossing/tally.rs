//! What became of connections and datagrams, as clients say it.

use std::collections::BTreeMap;

/// Of so many datagrams at least this one has to come back while nobody is struck: what is lost where connections fill the
/// same path is part of finding out how much it takes.
const CALM_LOSS_SHARE_MIN: usize = 10;

/// What became of connections.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Every byte came back, or they were given up on purpose.
    pub(super) whole: usize,
    /// How often for which reason.
    pub(super) failed: BTreeMap<String, usize>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.whole += other.whole;
        for (reason, times) in other.failed {
            *self.failed.entry(reason).or_default() += times;
        }
    }

    /// From a line of a client's log: `soak: done COUNT, whole W, dropped D, REASON: N…`, or `soak: so far COUNT, …`.
    pub(super) fn read(line: &str) -> Self {
        let mut tally = Self::default();
        for part in line.split(", ").skip(1) {
            let number = |word: Option<&str>| word.and_then(|word| word.trim().parse::<usize>().ok());
            if let Some((reason, times)) = part.rsplit_once(": ") {
                *tally.failed.entry(reason.to_owned()).or_default() += number(Some(times)).unwrap_or_default();
            } else {
                tally.whole += number(part.split(' ').nth(1)).unwrap_or_default();
            }
        }
        tally
    }

    pub(super) fn failures(&self) -> usize {
        self.failed.values().sum()
    }

    /// # Panics
    /// When something is not as it has to be, or more fails than arrives.
    pub(super) fn check(&self, who: &str, struck: bool) {
        let wrong: Vec<_> =
            self.failed.keys().filter(|reason| reason.contains("WRONG") || reason.contains("cut off")).collect();
        assert!(wrong.is_empty(), "{who}: {self:?}");
        assert!(if struck { self.whole > self.failures() } else { self.failures() == 0 }, "{who}: {self:?}");
    }
}

/// What became of datagrams.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datagrams {
    pub(super) sent: usize,
    pub(super) answered: usize,
}

impl Datagrams {
    /// From a client's log, all of its runs together: each of them counts from the start, `datagrams: sent S, answered A`.
    pub(super) fn read(log: &str) -> Self {
        let (mut before, mut now) = (Self::default(), Self::default());
        for line in log.lines() {
            let said = line.rsplit_once("datagrams: sent ").and_then(|(_, said)| said.split_once(", answered "));
            let Some((Ok(sent), Ok(answered))) = said.map(|(sent, answered)| (sent.parse(), answered.parse())) else {
                continue;
            };
            if sent <= now.sent {
                before = before.and(now);
            }
            now = Self { sent, answered };
        }
        before.and(now)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { sent: self.sent + other.sent, answered: self.answered + other.answered }
    }

    /// # Panics
    /// When more is lost than may be.
    pub(super) fn check(self, who: &str, struck: bool) {
        let lost = self.sent - self.answered;
        let share = if struck { 2 } else { CALM_LOSS_SHARE_MIN };
        assert!(lost * share <= self.sent, "{who}: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_say_is_understood() {
        let tally = Tally::read("soak: done 60, whole 50, dropped 4, connection reset: 5, host is unreachable: 1");
        assert_eq!((tally.whole, tally.failures()), (54, 6));
        assert_eq!(tally.failed["connection reset"], 5);
        tally.check("clients", true);
    }

    #[test]
    fn runs_of_a_client_are_added_up() {
        let log = "a datagrams: sent 10, answered 9\nb datagrams: sent 20, answered 18\nflow 3: other\n\
            c datagrams: sent 10, answered 10\nd datagrams: sent ";
        assert_eq!(Datagrams::read(log), Datagrams { sent: 30, answered: 28 });
        assert_eq!(Datagrams::read(""), Datagrams::default());
    }
}
