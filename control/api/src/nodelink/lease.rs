//! A node's lease, renewed with every ping on its control stream, through the door and as the node. It belongs to the Node
//! and goes with it. What a ping is told of it is never better than it is.

use crate::{
    Door,
    door::{Body, Target, WriteOptions, read::At},
    identity::Identity,
};
use coracle_client::clock::micros_text;
use coracle_objects::{ApiError, Reason, catalogue};
use coracle_store::{Revision, Watched};
use coracle_wire::v1::ServerPong;
use serde_json::{Value, json};
use std::{future::pending, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};

#[cfg(test)]
mod tests;

/// Where node leases live.
const NAMESPACE: &str = "kube-node-lease";
/// For how long a renewal counts where the node does not say, in seconds: four pings of an agent.
const SECONDS_DEFAULT: u32 = 40;
/// The longest that a node may ask for, in seconds.
const SECONDS_MAX: u32 = 3600;
/// Not more often than this: pings in between change nothing.
const INTERVAL_MIN: Duration = Duration::from_millis(500);
/// A renewal that takes longer counts as failed, until it is done.
const PENDING_MAX: Duration = Duration::from_secs(2);

/// How far the renewals of one stream are.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Pings so far.
    asked: u64,
    /// The newest ping whose renewal has ended, either way.
    ended: u64,
    /// The newest ping with which the lease was renewed.
    renewed: u64,
    /// The renewal that ended last failed.
    failed: bool,
    /// Since when one is going on.
    since: Option<Instant>,
    /// One ended just now; what is asked meanwhile waits.
    rests: bool,
}

/// Renews the lease of one connected node when told to. Dropping it ends that.
pub(super) struct LeaseKeeper {
    renew: mpsc::Sender<()>,
    progress: Arc<watch::Sender<Progress>>,
}

impl LeaseKeeper {
    /// Waits for [`Self::renew`].
    pub(super) fn start(door: Arc<Door>, node: &str, lease_seconds: u32) -> Self {
        let (renew, asked) = mpsc::channel(1);
        let seconds = if lease_seconds == 0 { SECONDS_DEFAULT } else { lease_seconds.min(SECONDS_MAX) };
        let progress = Arc::new(watch::Sender::new(Progress::default()));
        let lessee = Lessee { door, identity: Identity::node(node), node: node.to_owned(), seconds, held: None };
        tokio::spawn(keep(lessee, asked, Arc::clone(&progress)));
        Self { renew, progress }
    }

    /// The node has been heard of now. Answers when this has renewed the lease, or when it is known that it has not yet.
    pub(super) async fn renew(&self) -> ServerPong {
        let mut changes = self.progress.subscribe();
        let mut ping = 0;
        self.progress.send_modify(|progress| {
            progress.asked += 1;
            ping = progress.asked;
        });
        // One that waits says the same.
        let _ = self.renew.try_send(());
        let asked_at = Instant::now();
        loop {
            let progress = *changes.borrow_and_update();
            let late_at = progress.since.unwrap_or(asked_at) + PENDING_MAX;
            let is_known = progress.ended >= ping || progress.rests;
            let is_late = !is_known && Instant::now() >= late_at;
            if is_known || is_late {
                let behind = ping.saturating_sub(progress.renewed);
                return ServerPong { unrenewed: progress.failed || is_late, behind };
            }
            // Late, or something has changed: either way it is looked at again.
            let _ = timeout_at(late_at, changes.changed()).await;
        }
    }
}

/// Renews when asked, until nobody can ask any more.
async fn keep(mut lessee: Lessee, mut asked: mpsc::Receiver<()>, progress: Arc<watch::Sender<Progress>>) {
    while asked.recv().await.is_some() {
        let next = Instant::now() + INTERVAL_MIN;
        progress.send_modify(|progress| progress.since = Some(Instant::now()));
        let (ping, outcome) = loop {
            let (ping, looked_at) = (progress.borrow().asked, lessee.door.store().revision());
            match lessee.renew().await {
                Ok(true) => break (ping, Ok(())),
                Ok(false) => tracing::debug!(node = lessee.node, "a node that is connected has no Node yet"),
                Err(error) => break (ping, Err(error)),
            }
            tokio::select! {
                () = lessee.node_changed(looked_at) => {}
                more = asked.recv() => if more.is_none() { return },
            }
        };
        let failed = outcome.is_err();
        if let Err(error) = outcome
            && !progress.borrow().failed
        {
            tracing::warn!(node = lessee.node, %error, "cannot renew the lease of a node that is connected");
        }
        progress.send_modify(|progress| {
            (progress.since, progress.rests, progress.failed, progress.ended) = (None, true, failed, ping);
            if !failed {
                progress.renewed = ping;
            }
        });
        sleep_until(next).await;
        progress.send_modify(|progress| progress.rests = false);
    }
}

/// Whose lease.
struct Lessee {
    door: Arc<Door>,
    identity: Identity,
    node: String,
    seconds: u32,
    /// The lease as it was written last.
    held: Option<Value>,
}

impl Lessee {
    /// Whether the lease is renewed now; not where there is no Node: such a lease would stay for ever.
    async fn renew(&mut self) -> Result<bool, ApiError> {
        let Some(node) = self.read(&self.object()).await? else { return Ok(false) };
        let uid = &node["metadata"]["uid"];
        let held = self.held.take();
        let mut lease = self.write(uid, held).await;
        // Written by somebody else, or removed: looked at first.
        if lease
            .as_ref()
            .is_err_and(|error| matches!(error.reason, Reason::Conflict | Reason::NotFound | Reason::AlreadyExists))
        {
            lease = self.write(uid, None).await;
        }
        self.held = Some(lease?);
        Ok(true)
    }

    /// The Node.
    fn object(&self) -> Target {
        Target::object(catalogue::nodes(), "", &self.node)
    }

    /// Resolves when the Node has changed after `revision`; never where that cannot be seen.
    async fn node_changed(&self, revision: Revision) {
        let key = self.object().key();
        let Ok(mut changes) = self.door.store().watch(&key.0, revision) else { return pending().await };
        loop {
            match changes.next().await {
                Ok(Watched::Event(event)) if event.entry.key == key => return,
                // Of one whose name begins like this one's, or of none.
                Ok(_) => {}
                Err(_) => return pending().await,
            }
        }
    }

    async fn read(&self, target: &Target) -> Result<Option<Value>, ApiError> {
        match self.door.get(&self.identity, target, At::Any).await {
            Ok(entry) => decoded(&entry.value).map(Some),
            Err(error) if error.reason == Reason::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The lease, renewed now and owned by the Node that has this uid; `held`: as it is believed to be.
    async fn write(&self, uid: &Value, held: Option<Value>) -> Result<Value, ApiError> {
        let (kind, node) = (catalogue::leases(), &self.node);
        let target = Target::object(kind, NAMESPACE, node);
        let current = match held {
            Some(held) => Some(held),
            None => self.read(&target).await?,
        };
        let owners = json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]);
        let mut lease = json!({
            "apiVersion": kind.api_version(), "kind": kind.kind,
            "metadata": {"name": node, "namespace": NAMESPACE},
            "spec": {
                "holderIdentity": node,
                "leaseDurationSeconds": self.seconds,
                "renewTime": micros_text(OffsetDateTime::now_utc()),
            },
        });
        let options = WriteOptions::default();
        let written = if let Some(mut current) = current {
            lease["metadata"] = current["metadata"].take();
            lease["metadata"]["ownerReferences"] = owners;
            self.door.update(&self.identity, &target, Body::Value(lease), options).await?
        } else {
            lease["metadata"]["ownerReferences"] = owners;
            let leases = Target::collection(kind, NAMESPACE);
            self.door.create(&self.identity, &leases, Body::Value(lease), options).await?
        };
        decoded(&written.bytes)
    }
}

fn decoded(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::internal(error.to_string()))
}
