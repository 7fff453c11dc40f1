//! Renews the node's certificate long before it expires, and puts the new one to use without a restart.

use crate::{
    clock,
    credentials::{Credentials, Wallet},
    link::{Link, SIGNING_REQUESTS},
    retry::Reconnect,
    signing_request::{Answer, SigningRequest, answer},
};
use coracle_objects::{Reason, nodes::CERTIFICATES_BACKDATED_SECONDS};
use rand::Rng as _;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Which part of its life a certificate has behind it when it is renewed, at the earliest and the latest: a cluster's nodes do
/// not all ask in the same hour, and there is time for what goes wrong.
const PART_BEHIND: std::ops::Range<f64> = 0.6..0.8;
/// How often the clock is looked at, since it may be set.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Pause after a renewal, as a part of the new certificate's life and at the least and the most, whatever the clock says.
const PAUSE_PART: f64 = 0.1;
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
/// How long one request is asked about before a new one is made.
const PATIENCE: Duration = Duration::from_mins(10);

/// See the module.
pub(crate) struct Renewal {
    pub(crate) link: Arc<dyn Link>,
    pub(crate) wallet: Arc<Wallet>,
}

impl Renewal {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let keep = async {
            let current = self.wallet.watch().borrow().clone();
            let mut life = Life::found(current.validity(), Instant::now(), clock::now().unix_timestamp());
            loop {
                let part = rand::rng().random_range(PART_BEHIND);
                loop {
                    let left = life.left(part, Instant::now(), clock::now().unix_timestamp());
                    if left.is_zero() {
                        break;
                    }
                    tokio::time::sleep(left.min(LOOK_EVERY)).await;
                }
                let current = self.wallet.watch().borrow().clone();
                self.renew(&current).await;
                let validity = self.wallet.watch().borrow().validity();
                life = Life::received(validity, Instant::now(), clock::now().unix_timestamp());
            }
        };
        tokio::select! {
            () = keep => {}
            () = stop.cancelled() => {}
        }
    }

    /// Asks until there are new ones.
    async fn renew(&self, current: &Credentials) {
        let mut reconnect = Reconnect::new();
        loop {
            let asked = match SigningRequest::with_new_key(current.node_name()) {
                Ok(request) => self.ask(current, &request).await,
                Err(error) => Err(error.to_string()),
            };
            match asked {
                Ok(()) => return info!("the node's certificate has been renewed"),
                Err(error) if reconnect.is_news(&error) => warn!(error, "the node's certificate cannot be renewed yet"),
                Err(error) => tracing::debug!(error, "the node's certificate still cannot be renewed"),
            }
            tokio::time::sleep(reconnect.delay()).await;
        }
    }

    async fn ask(&self, current: &Credentials, request: &SigningRequest) -> Result<(), String> {
        match self.link.create(SIGNING_REQUESTS, &request.object()).await {
            Err(error) if error.reason != Reason::AlreadyExists => return Err(error.to_string()),
            _ => {}
        }
        let granted = async {
            let mut pause = Reconnect::new();
            loop {
                tokio::time::sleep(pause.delay()).await;
                let object = self.link.get(SIGNING_REQUESTS, &request.object_key()).await;
                match object.map(|object| answer(&object)) {
                    Ok(Answer::Granted(pem)) => return Ok(pem),
                    Ok(Answer::Refused(why)) => return Err(format!("the request was refused: {why}")),
                    Err(error) if error.reason == Reason::NotFound => return Err(error.to_string()),
                    Ok(Answer::Waiting) | Err(_) => {}
                }
            }
        };
        let pem =
            tokio::time::timeout(PATIENCE, granted).await.map_err(|_| "nobody decided on the request".to_owned())??;
        let new = Credentials::from_pem(current.ca_pem(), &pem, request.key_pem());
        new.and_then(|new| self.wallet.replace(new)).map_err(|error| error.to_string())
    }
}

/// How much of a certificate's life is over. It is counted from when the node got it, for the node's clock may be wrong, and
/// may be set: what that says is heard only as to how much time has passed since, as while the machine slept.
#[derive(Debug, Clone, Copy)]
struct Life {
    whole: Duration,
    /// What was behind it at `since`, when the clock said `clock_since`.
    behind: Duration,
    since: Instant,
    clock_since: i64,
    /// How long after `since` it is not renewed in any case.
    pause: Duration,
}

impl Life {
    /// Of one that the node has just got.
    fn received((not_before, not_after): (i64, i64), now: Instant, clock_now: i64) -> Self {
        let issued = not_before.saturating_add(CERTIFICATES_BACKDATED_SECONDS).min(not_after);
        let whole = Duration::from_secs(not_after.abs_diff(issued));
        let pause = whole.mul_f64(PAUSE_PART).clamp(*PAUSE.start(), *PAUSE.end());
        Self { whole, behind: Duration::ZERO, since: now, clock_since: clock_now, pause }
    }

    /// Of one that was there when the node started: only the clock can say how old it is.
    fn found(validity: (i64, i64), now: Instant, clock_now: i64) -> Self {
        let life = Self::received(validity, now, clock_now);
        let left = u64::try_from(validity.1.saturating_sub(clock_now)).unwrap_or(0);
        let behind = life.whole.saturating_sub(Duration::from_secs(left));
        Self { behind, pause: Duration::ZERO, ..life }
    }

    /// How long it is until this part of it is over; zero when it is to be renewed.
    fn left(&self, part: f64, now: Instant, clock_now: i64) -> Duration {
        let passed = now.saturating_duration_since(self.since);
        let by_clock = Duration::from_secs(u64::try_from(clock_now.saturating_sub(self.clock_since)).unwrap_or(0));
        let until_due = self.whole.mul_f64(part).saturating_sub(self.behind.saturating_add(passed.max(by_clock)));
        until_due.max(self.pause.saturating_sub(passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{credentials::tests::Cluster, fake::FakeLink};

    #[test]
    fn a_certificate_is_renewed_when_most_of_its_life_is_over() {
        let start = Instant::now();
        let left =
            |life: Life, passed: u64, clock: i64| life.left(0.6, start + Duration::from_secs(passed), clock).as_secs();
        // Issued at 1,600 and good for 10,000 seconds.
        let found = |clock| Life::found((1_000, 11_600), start, clock);
        assert_eq!(left(found(1_600), 0, 1_600), 6_000);
        assert_eq!(left(found(5_600), 0, 5_600), 2_000);
        assert_eq!(left(found(5_600), 500, 6_100), 1_500);
        assert_eq!((left(found(8_000), 0, 8_000), left(found(99_999), 0, 99_999)), (0, 0));
        assert_eq!(left(found(0), 0, 0), 6_000, "the clock is behind");
        assert_eq!(left(found(0), 0, 4_600), 1_400, "and is set");
        assert_eq!(left(Life::found((1_000, 1_600), start, 1_600), 0, 1_600), 0, "one with no life at all");
    }

    #[test]
    fn a_wrong_clock_does_not_make_it_renew_without_pause() {
        let start = Instant::now();
        let left =
            |life: Life, passed: u64, clock: i64| life.left(0.6, start + Duration::from_secs(passed), clock).as_secs();
        for clock in [0, 1_600, 99_999_999] {
            let got = Life::received((1_000, 11_600), start, clock);
            assert_eq!(
                (left(got, 0, clock), left(got, 4_000, clock + 4_000), left(got, 6_000, clock)),
                (6_000, 2_000, 0)
            );
            assert_eq!(left(got, 10, clock + 5_000), 1_000, "the machine slept");
            assert_eq!(left(got, 10, clock + 50_000), 990, "the clock was set");
            assert_eq!(left(got, 10, clock - 50_000), 5_990, "and back");
        }
        let pause = |seconds: i64| Life::received((0, 600 + seconds), start, 0).pause.as_secs();
        assert_eq!((pause(0), pause(100), pause(10_000_000)), (1, 10, 86_400));
    }

    #[tokio::test]
    async fn a_new_certificate_is_on_disk_and_used_without_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = Cluster::new();
        let wallet = Arc::new(Wallet::open(directory.path(), cluster.node("one", 0)));
        let link = FakeLink::new();
        let mut watching = wallet.watch();
        watching.mark_unchanged();
        let stop = CancellationToken::new();
        tokio::spawn(Renewal { link: link.clone(), wallet }.run(stop.clone()));
        link.wait("the request", |link| !link.all(SIGNING_REQUESTS).is_empty()).await;
        let mut asked = link.all(SIGNING_REQUESTS).remove(0);
        asked["status"]["certificate"] = cluster.sign(&asked, 1_000).into();
        link.put(SIGNING_REQUESTS, asked);
        watching.changed().await.unwrap();
        let renewed = watching.borrow().clone();
        let kept = Credentials::read(&directory.path().join(crate::credentials::DIRECTORY)).unwrap();
        assert_eq!((kept.chain(), kept.node_name()), (renewed.chain(), "one"));
        stop.cancel();
    }
}
