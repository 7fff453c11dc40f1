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
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Which part of its life a certificate has behind it when it is renewed, at the earliest and the latest: a cluster's nodes do
/// not all ask in the same hour, and there is time for what goes wrong.
const PART_BEHIND: std::ops::Range<f64> = 0.6..0.8;
/// How often the clock is looked at, since it may be set.
const LOOK_EVERY: Duration = Duration::from_mins(1);
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
            loop {
                let current = self.wallet.watch().borrow().clone();
                let due = due(current.validity(), rand::rng().random_range(PART_BEHIND));
                while let Ok(left @ 1..) = u64::try_from(due - clock::now().unix_timestamp()) {
                    tokio::time::sleep(Duration::from_secs(left).min(LOOK_EVERY)).await;
                }
                self.renew(&current).await;
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
                Err(error) if reconnect.is_first() => warn!(error, "the node's certificate cannot be renewed yet"),
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

/// When a certificate with this validity is to be renewed, once this part of its life is behind it.
fn due((not_before, not_after): (i64, i64), part: f64) -> i64 {
    let issued = (not_before + CERTIFICATES_BACKDATED_SECONDS).min(not_after);
    let life = Duration::from_secs((not_after - issued).unsigned_abs()).mul_f64(part);
    issued + i64::try_from(life.as_secs()).unwrap_or(i64::MAX - issued)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{credentials::tests::Cluster, fake::FakeLink};

    #[test]
    fn a_certificate_is_renewed_when_most_of_its_life_is_over() {
        assert_eq!(due((1_000, 11_600), 0.6), 1_600 + 6_000);
        assert_eq!(due((1_000, 1_600), 0.8), 1_600, "one with no life at all is renewed at once");
        assert_eq!(due((1_000, 1_100), 0.8), 1_100);
        assert_eq!(PART_BEHIND, 0.6..0.8);
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
