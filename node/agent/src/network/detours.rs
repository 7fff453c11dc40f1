//! The Node's condition `PeersDirect`: whether traffic to other nodes goes from host to host, for people to read.
//!
//! It must never be a burden: what changes all the time is shown anew only now and then, and of many peers some.

use coracle_net::tunnel::Detour;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The condition.
pub(crate) const CONDITION: &str = "PeersDirect";
/// How long one is shown before another takes its place, so that peers that come and go cost one write of the status in
/// this time.
const SHOWN_FOR: Duration = Duration::from_secs(30);
/// Peers that are named; of others there is the number.
const NAMED_MAX: usize = 8;
/// Characters of a cause.
const CAUSE_MAX: usize = 100;

/// Status, reason and message of the condition.
pub(crate) type Verdict = (bool, &'static str, String);

/// What people read while these peers are reached by a detour.
fn verdict(detours: &[Detour]) -> Verdict {
    let spelled = |detour: &Detour| {
        let cause: String = detour.why.chars().take(CAUSE_MAX).collect();
        format!("{} ({cause})", detour.node)
    };
    let more = match detours.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let count = match detours.len() {
        0 => return (true, "AllPeersDirect", "no traffic goes through the control plane".to_owned()),
        1 => "1 node".to_owned(),
        many => format!("{many} nodes"),
    };
    let names: Vec<String> = detours.iter().take(NAMED_MAX).map(spelled).collect();
    let message = format!("traffic to {count} goes through the control plane: {}{more}", names.join(", "));
    (false, "SomePeersRelayed", message)
}

/// Asks the tunnel for its detours; `None` where there is no tunnel.
type Ask = Box<dyn Fn() -> Option<Vec<Detour>> + Send + Sync>;

/// What is shown, and when it was shown first.
pub(crate) struct Shown {
    ask: Ask,
    lasts: Duration,
    last: Mutex<Option<(Verdict, Instant)>>,
}

impl Shown {
    pub(crate) fn new(ask: Ask) -> Self {
        Self { ask, lasts: SHOWN_FOR, last: Mutex::new(None) }
    }

    /// One that shows all at once.
    #[cfg(test)]
    pub(crate) fn hasty(ask: Ask) -> Self {
        Self { lasts: Duration::ZERO, ..Self::new(ask) }
    }

    /// The condition to show at `now`: what is so, or was when it was shown first.
    pub(crate) fn at(&self, now: Instant) -> Verdict {
        let no_tunnel = || (false, "NoTunnel", "there is no way to other nodes' pods".to_owned());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((shown, since)) if now.saturating_duration_since(*since) < self.lasts => shown.clone(),
            known => {
                let verdict = (self.ask)().map_or_else(no_tunnel, |detours| verdict(&detours));
                if known.as_ref().is_none_or(|(shown, _)| *shown != verdict) {
                    *last = Some((verdict.clone(), now));
                }
                verdict
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn detours(count: usize) -> Vec<Detour> {
        let detour = |number| Detour { node: format!("node-{number}"), why: "no answer".to_owned() };
        (0..count).map(detour).collect()
    }

    #[test]
    fn it_names_some_peers_with_the_cause_and_counts_all() {
        assert!(verdict(&[]).0);
        let (direct, reason, message) = verdict(&detours(1));
        assert_eq!((direct, reason), (false, "SomePeersRelayed"));
        assert_eq!(message, "traffic to 1 node goes through the control plane: node-0 (no answer)");
        let many = verdict(&detours(1000)).2;
        assert!(
            many.starts_with("traffic to 1000 nodes goes through") && many.ends_with("node-7 (no answer) and 992 more")
        );
        let wordy = verdict(&[Detour { node: "a".to_owned(), why: "ä".repeat(5000) }]).2;
        assert!(wordy.chars().count() < 200, "{wordy}");
    }

    #[test]
    fn peers_that_come_and_go_change_it_now_and_then_only() {
        let (so, start) = (Arc::new(Mutex::new(detours(0))), Instant::now());
        let asked = so.clone();
        let shown = Shown::new(Box::new(move || Some(asked.lock().unwrap().clone())));
        let (mut changes, mut last) = (0, shown.at(start));
        for second in 1..=600 {
            *so.lock().unwrap() = detours(second % 2);
            let now = shown.at(start + Duration::from_secs(second as u64));
            changes += usize::from(now != last);
            last = now;
        }
        assert!((10..=20).contains(&changes), "{changes} in ten minutes");
        // What has been so for a while gives way at once.
        let asked = so.clone();
        let shown = Shown::new(Box::new(move || Some(asked.lock().unwrap().clone())));
        for (second, count, is_direct) in [(0, 1, false), (15, 0, false), (30, 0, true), (70, 1, false), (80, 0, false)]
        {
            *so.lock().unwrap() = detours(count);
            assert_eq!(shown.at(start + Duration::from_secs(second)).0, is_direct, "{second}");
        }
        assert_eq!(Shown::new(Box::new(|| None)).at(start).1, "NoTunnel");
    }
}
