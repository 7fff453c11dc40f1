//! A node's lease, renewed with every ping on its control stream, through the door and as the node. Pings are answered
//! without waiting for it.

use crate::{
    Door,
    door::{Body, Target, WriteOptions, read::At},
    identity::Identity,
};
use coracle_client::clock::micros_text;
use coracle_objects::{ApiError, Kind, Reason, catalogue};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Where node leases live.
const NAMESPACE: &str = "kube-node-lease";
/// For how long a renewal counts where the node does not say, in seconds: four pings of an agent.
const SECONDS_DEFAULT: u32 = 40;
/// The longest that a node may ask for, in seconds.
const SECONDS_MAX: u32 = 3600;
/// Not more often than this: pings in between change nothing.
const INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Renews the lease of one connected node when told to. Dropping it ends that.
pub(super) struct LeaseKeeper {
    renew: mpsc::Sender<()>,
    fails: Arc<AtomicBool>,
}

impl LeaseKeeper {
    /// Waits for [`Self::renew`].
    pub(super) fn start(door: Arc<Door>, node: &str, lease_seconds: u32) -> Self {
        let (renew, asked) = mpsc::channel(1);
        let seconds = if lease_seconds == 0 { SECONDS_DEFAULT } else { lease_seconds.min(SECONDS_MAX) };
        let fails = Arc::new(AtomicBool::new(false));
        tokio::spawn(keep(
            door,
            Lessee { identity: Identity::node(node), node: node.to_owned(), seconds },
            asked,
            Arc::clone(&fails),
        ));
        Self { renew, fails }
    }

    /// Whether the lease could not be renewed lately.
    pub(super) fn fails(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }

    /// The node has been heard of now.
    pub(super) fn renew(&self) {
        // One that waits says the same.
        let _ = self.renew.try_send(());
    }
}

/// Whose lease.
struct Lessee {
    identity: Identity,
    node: String,
    seconds: u32,
}

async fn keep(door: Arc<Door>, lessee: Lessee, mut asked: mpsc::Receiver<()>, failing: Arc<AtomicBool>) {
    let Some(kind) = catalogue::by_kind("coordination.k8s.io/v1", "Lease") else { return };
    let mut held: Option<Value> = None;
    let mut fails = false;
    while asked.recv().await.is_some() {
        let next = Instant::now() + INTERVAL_MIN;
        let mut renewed = renew(&door, kind, &lessee, held.take()).await;
        // Written by somebody else, or removed: now it is looked at first.
        if renewed.as_ref().is_err_and(|error| matches!(error.reason, Reason::Conflict | Reason::NotFound)) {
            renewed = renew(&door, kind, &lessee, None).await;
        }
        match renewed {
            Ok(lease) => {
                held = Some(lease);
                fails = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!(node = lessee.node, %error, "cannot renew the lease of a node that is connected");
                }
            }
        }
        failing.store(fails, Ordering::Relaxed);
        sleep_until(next).await;
    }
}

async fn renew(door: &Arc<Door>, kind: &'static Kind, lessee: &Lessee, held: Option<Value>) -> Result<Value, ApiError> {
    let Lessee { identity, node, seconds } = lessee;
    let target = Target::object(kind, NAMESPACE, node);
    let mut lease = json!({
        "apiVersion": kind.api_version(), "kind": kind.kind,
        "metadata": {"name": node, "namespace": NAMESPACE},
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": seconds,
            "renewTime": micros_text(OffsetDateTime::now_utc()),
        },
    });
    let current = match held {
        Some(held) => Some(held),
        None => match door.get(identity, &target, At::Any).await {
            Ok(entry) => Some(decoded(&entry.value)?),
            Err(error) if error.reason == Reason::NotFound => None,
            Err(error) => return Err(error),
        },
    };
    let options = WriteOptions::default();
    let written = if let Some(mut current) = current {
        lease["metadata"] = current["metadata"].take();
        door.update(identity, &target, Body::Value(lease), options).await?
    } else {
        door.create(identity, &Target::collection(kind, NAMESPACE), Body::Value(lease), options).await?
    };
    decoded(&written.bytes)
}

fn decoded(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::internal(error.to_string()))
}
