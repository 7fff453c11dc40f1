//! Registers the Node and keeps its status true. Its lease is renewed by the pings of the node link.

use crate::{
    clock,
    link::{Link, NODES},
    network::{addresses::Addresses, detours, place::Place},
    node,
    pressure::Pressure,
    reflector::Cache,
    retry::Reconnect,
};
use coracle_objects::{ApiError, ObjectKey, Reason, nodes::TUNNEL_ANNOTATION, ranges::MAX_PODS_ANNOTATION};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the node's lease is renewed, where nobody says otherwise.
pub const HEARTBEAT_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
/// How many times the lease is renewed within its duration.
pub(crate) const RENEWALS_IN_A_LEASE: u32 = 4;
/// How often the status is looked at, and written if it changed.
pub(crate) const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// How often the status is written although nothing changed.
const STATUS_WRITE_INTERVAL: Duration = Duration::from_mins(15);

/// Keeps one Node object up to date.
pub(crate) struct Heartbeat {
    pub(crate) link: Arc<dyn Link>,
    pub(crate) identity: node::Identity,
    pub(crate) pressure: watch::Receiver<Pressure>,
    /// Whether the agent knows its pods and can run them.
    pub(crate) ready: watch::Receiver<bool>,
    /// The agent ends, and its pods before it.
    pub(crate) ending: CancellationToken,
    /// Learns from the Node object which range is this node's.
    pub(crate) addresses: Arc<Addresses>,
    /// Told when the node was not heard of for so long that somebody may have declared it unknown.
    pub(crate) resumed: Arc<Notify>,
    /// Where the node is.
    pub(crate) place: watch::Receiver<Place>,
    /// How other nodes are reached.
    pub(crate) peers: detours::Shown,
    /// How others see this node.
    pub(crate) nodes: Cache,
    /// How often the status is looked at: [`STATUS_INTERVAL`].
    pub(crate) interval: Duration,
}

impl Heartbeat {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = self.keep_status() => {}
            () = stop.cancelled() => {}
        }
    }

    /// Writes the status when it changed, when it is due, when `resumed` (somebody may have declared the node unknown while
    /// it was not heard of), and when it is seen that somebody has.
    async fn keep_status(&self) {
        let (mut ready, mut pressure, mut place) = (self.ready.clone(), self.pressure.clone(), self.place.clone());
        let mut reconnect = Reconnect::new();
        let (mut written, mut said): (Option<(Value, Instant)>, bool) = (None, false);
        let (mut view, mut is_unknown) = (self.nodes.version(), false);
        loop {
            let is_ready = *ready.borrow_and_update();
            let due = match &written {
                None => true,
                Some(_) if !self.addresses.is_ready() => true,
                // What was written has been overwritten, or was: changes that follow each other closely are seen as one.
                Some((_, at)) if at.elapsed() >= self.interval && self.is_seen_unknown() => true,
                Some((status, at)) => {
                    at.elapsed() >= STATUS_WRITE_INTERVAL || node::differs(status, &self.status(is_ready, status))
                }
            };
            if due {
                match self.write_status(is_ready).await {
                    Ok(status) => {
                        info!(node = self.identity.name, ready = is_ready, "node status written");
                        written = Some((status, Instant::now()));
                        reconnect.reset();
                    }
                    Err(error) => {
                        // Others write to the node too: it is looked at again.
                        if error.reason != Reason::Conflict && reconnect.is_news(&error) {
                            warn!(%error, "cannot write the node's status");
                        }
                        tokio::time::sleep(reconnect.delay()).await;
                        continue;
                    }
                }
            }
            tokio::select! {
                changed = ready.changed() => if changed.is_err() { std::future::pending::<()>().await },
                Ok(()) = pressure.changed() => {}
                Ok(()) = place.changed() => written = None,
                () = self.resumed.notified() => written = None,
                () = self.declared_unknown(&mut view, &mut is_unknown) => written = None,
                () = self.ending.cancelled(), if !said => said = true,
                () = tokio::time::sleep(self.interval) => {}
            }
        }
    }

    /// Resolves when others begin to see this node as one of which nothing is heard; `is_unknown` is what was seen last.
    async fn declared_unknown(&self, view: &mut watch::Receiver<u64>, is_unknown: &mut bool) {
        loop {
            view.borrow_and_update();
            let was_unknown = std::mem::replace(is_unknown, self.is_seen_unknown());
            if *is_unknown && !was_unknown {
                return;
            }
            if view.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether others see this node as one of which nothing is heard, as far as it has been told.
    fn is_seen_unknown(&self) -> bool {
        let node = self.nodes.get(&ObjectKey::cluster(&self.identity.name));
        let conditions = node.as_ref().and_then(|node| node["status"]["conditions"].as_array());
        let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
        ready.is_some_and(|ready| ready["status"] == "Unknown")
    }

    fn status(&self, is_ready: bool, previous: &Value) -> Value {
        let ready = match (is_ready, self.addresses.is_ready()) {
            _ if self.ending.is_cancelled() => Err("the node agent is shutting down"),
            (false, _) => Err("the node agent does not know its pods yet"),
            (true, false) => Err("the node has no range of addresses (spec.podCIDR) for pods; its events say why"),
            (true, true) => Ok(()),
        };
        let identity = node::Identity { address: self.place.borrow().address.clone(), ..self.identity.clone() };
        let found = node::Found { ready, pressure: *self.pressure.borrow(), peers: self.peers.at(Instant::now()) };
        node::status(&identity, &found, previous, clock::now())
    }

    /// Creates the Node or brings labels and status of the one that is there up to date.
    async fn write_status(&self, is_ready: bool) -> Result<Value, ApiError> {
        let key = ObjectKey::cluster(&self.identity.name);
        let mut found = match self.link.get(NODES, &key).await {
            Err(error) if error.reason == Reason::NotFound => {
                self.link.create(NODES, &node::object(&self.identity)).await?
            }
            other => other?,
        };
        let wanted = node::labels(&self.identity.name, &self.identity.labels);
        if wanted.iter().any(|(name, value)| found["metadata"]["labels"].get(name) != Some(value)) {
            if !found["metadata"]["labels"].is_object() {
                found["metadata"]["labels"] = Value::Object(serde_json::Map::new());
            }
            for (name, value) in wanted {
                found["metadata"]["labels"][name] = value;
            }
            found = self.link.update(NODES, "", &found).await?;
        }
        let reached_at = self.place.borrow().reached_at.clone();
        if found["metadata"]["annotations"][TUNNEL_ANNOTATION].as_str().unwrap_or_default() != reached_at {
            if !found["metadata"]["annotations"].is_object() {
                found["metadata"]["annotations"] = Value::Object(serde_json::Map::new());
            }
            found["metadata"]["annotations"][TUNNEL_ANNOTATION] = reached_at.into();
            found = self.link.update(NODES, "", &found).await?;
        }
        if found["spec"]["podCIDR"].is_null() {
            // A Node from before nodes had ranges, or from when there was none left: with a change it is given one, as large
            // as it has to be by now.
            if !found["metadata"]["annotations"].is_object() {
                found["metadata"]["annotations"] = Value::Object(serde_json::Map::new());
            }
            found["metadata"]["annotations"][MAX_PODS_ANNOTATION] = self.identity.pods_max.to_string().into();
            found = self.link.update(NODES, "", &found).await?;
        }
        if let Some(range) = found["spec"]["podCIDR"].as_str() {
            self.addresses.set_range(range);
        } else {
            warn!("the node has no range of addresses: its pods wait");
        }
        let status = self.status(is_ready, &found["status"]);
        found["status"] = status.clone();
        self.link.update(NODES, "status", &found).await?;
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fake::FakeLink, machine::Facts, reflector::Sink as _};
    use std::collections::BTreeMap;

    fn ready_status(link: &FakeLink) -> Option<String> {
        let node = link.stored(NODES, &ObjectKey::cluster("n"))?;
        let conditions = node["status"]["conditions"].as_array()?.clone();
        let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready")?;
        ready["status"].as_str().map(str::to_owned)
    }

    fn heartbeat(link: &Arc<FakeLink>) -> (Heartbeat, watch::Sender<bool>) {
        let (ready_sender, ready) = watch::channel(false);
        let identity = node::Identity {
            name: "n".to_owned(),
            address: "127.0.0.1".to_owned(),
            labels: BTreeMap::new(),
            facts: Facts::default(),
            runtime_version: String::new(),
            pods_max: 1000,
            confined: (true, "LandlockAndSeccomp", String::new()),
            reserved: crate::Reserved::default(),
            thresholds: crate::Thresholds::default(),
        };
        let directory = tempfile::tempdir().unwrap();
        let addresses = Arc::new(Addresses::open(directory.path(), Duration::ZERO));
        addresses.set_range("10.244.8.0/22");
        let pressure = watch::Sender::new(Pressure::default()).subscribe();
        let place = Place { address: "127.0.0.1".to_owned(), reached_at: "192.0.2.1:6444".to_owned() };
        let place = watch::Sender::new(place).subscribe();
        let (resumed, nodes, ending) = (Arc::default(), Cache::new(), CancellationToken::new());
        let interval = STATUS_INTERVAL;
        let (link, peers) = (link.clone(), detours::Shown::new(Box::new(|| Some(Vec::new()))));
        let heartbeat =
            Heartbeat { link, identity, pressure, ready, ending, addresses, resumed, place, peers, nodes, interval };
        (heartbeat, ready_sender)
    }

    #[tokio::test]
    async fn a_node_registers_and_turns_ready() {
        let link = FakeLink::new();
        let (heartbeat, ready_sender) = heartbeat(&link);
        let stop = CancellationToken::new();
        let task = tokio::spawn(heartbeat.run(stop.clone()));
        link.wait("not ready at first", |link| ready_status(link).as_deref() == Some("False")).await;
        ready_sender.send(true).unwrap();
        link.wait("ready once the pods are known", |link| ready_status(link).as_deref() == Some("True")).await;
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_node_that_ends_says_so_at_once() {
        let link = FakeLink::new();
        let (heartbeat, ready_sender) = heartbeat(&link);
        ready_sender.send(true).unwrap();
        let (ending, stop) = (heartbeat.ending.clone(), CancellationToken::new());
        let task = tokio::spawn(heartbeat.run(stop.clone()));
        link.wait("ready", |link| ready_status(link).as_deref() == Some("True")).await;
        ending.cancel();
        link.wait("not ready", |link| ready_status(link).as_deref() == Some("False")).await;
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn the_range_of_addresses_is_that_of_the_node_object() {
        let link = FakeLink::new();
        let (mut heartbeat, _ready) = heartbeat(&link);
        let directory = tempfile::tempdir().unwrap();
        let addresses = Arc::new(Addresses::open(directory.path(), Duration::ZERO));
        heartbeat.addresses = addresses.clone();
        heartbeat.write_status(true).await.unwrap();
        assert_eq!(ready_status(&link).as_deref(), Some("False"), "no pod could run");
        let key = ObjectKey::cluster("n");
        // Started for fewer pods, it asks for a smaller range.
        heartbeat.identity.pods_max = 61;
        heartbeat.write_status(true).await.unwrap();
        assert_eq!(link.stored(NODES, &key).unwrap()["metadata"]["annotations"][MAX_PODS_ANNOTATION], "61");
        let mut given = link.stored(NODES, &key).unwrap();
        given["spec"]["podCIDR"] = "10.244.4.0/22".into();
        link.put(NODES, given);
        heartbeat.write_status(true).await.unwrap();
        assert_eq!(ready_status(&link).as_deref(), Some("True"));
        assert!(addresses.take("pod").await.unwrap().to_string().starts_with("10.244.4."));
        assert_eq!(link.stored(NODES, &key).unwrap()["spec"]["podCIDR"], "10.244.4.0/22");
    }

    #[tokio::test]
    async fn others_learn_where_the_node_is_reached_and_where_it_went() {
        let link = FakeLink::new();
        let (mut heartbeat, _ready) = heartbeat(&link);
        let at =
            |address: &str, reached_at: &str| Place { address: address.to_owned(), reached_at: reached_at.to_owned() };
        let place = watch::Sender::new(Place::default());
        heartbeat.place = place.subscribe();
        let stop = CancellationToken::new();
        let task = tokio::spawn(heartbeat.run(stop.clone()));
        let said = |link: &FakeLink| {
            let node = link.stored(NODES, &ObjectKey::cluster("n"))?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let address = text(&node["status"]["addresses"][0]["address"]);
            Some(Place { address, reached_at: text(&node["metadata"]["annotations"][TUNNEL_ANNOTATION]) })
        };
        for now in [at("192.0.2.1", "192.0.2.1:6444"), at("192.0.2.7", "192.0.2.7:6444"), at("192.0.2.7", "")] {
            place.send_replace(now.clone());
            link.wait("the address", |link| said(link).as_ref() == Some(&now)).await;
        }
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn people_read_which_peers_are_reached_by_a_detour() {
        let link = FakeLink::new();
        let (mut heartbeat, _ready) = heartbeat(&link);
        let (detours, asked) = watch::channel(Vec::<coracle_net::tunnel::Detour>::new());
        heartbeat.interval = Duration::from_millis(20);
        heartbeat.peers = detours::Shown::hasty(Box::new(move || Some(asked.borrow().clone())));
        let task = tokio::spawn(async move { heartbeat.keep_status().await });
        let said = |link: &FakeLink| {
            let node = link.stored(NODES, &ObjectKey::cluster("n"))?;
            let conditions = node["status"]["conditions"].as_array()?.clone();
            let peers = conditions.into_iter().find(|condition| condition["type"] == "PeersDirect")?;
            Some((peers["status"].as_str()?.to_owned(), peers["message"].as_str()?.to_owned()))
        };
        link.wait("no detour", |link| said(link).is_some_and(|(status, _)| status == "True")).await;
        detours.send_replace(vec![coracle_net::tunnel::Detour { node: "far".to_owned(), why: "no answer".to_owned() }]);
        link.wait("a detour", |link| {
            said(link).is_some_and(|(status, message)| status == "False" && message.contains("far (no answer)"))
        })
        .await;
        task.abort();
    }

    #[tokio::test]
    async fn a_node_that_sees_itself_unknown_says_that_it_is_back_once() {
        let link = FakeLink::new();
        let (heartbeat, ready_sender) = heartbeat(&link);
        ready_sender.send(true).unwrap();
        let mut view = heartbeat.nodes.clone();
        let task = tokio::spawn(async move { heartbeat.keep_status().await });
        link.wait("ready", |link| ready_status(link).as_deref() == Some("True")).await;
        let mut node = link.stored(NODES, &ObjectKey::cluster("n")).unwrap();
        for condition in node["status"]["conditions"].as_array_mut().unwrap() {
            condition["status"] = "Unknown".into();
        }
        let seen = link.put(NODES, node);
        view.apply(seen.clone());
        link.wait("ready again", |link| ready_status(link).as_deref() == Some("True")).await;
        // The view is behind: what it shows again has been answered.
        let written = link.stored(NODES, &ObjectKey::cluster("n")).unwrap();
        view.apply(seen);
        tokio::task::yield_now().await;
        assert_eq!(link.stored(NODES, &ObjectKey::cluster("n")).unwrap(), written);
        task.abort();
    }

    #[tokio::test]
    async fn a_node_that_stays_unknown_says_that_it_is_back_again() {
        let link = FakeLink::new();
        let (mut heartbeat, ready_sender) = heartbeat(&link);
        heartbeat.interval = Duration::from_millis(20);
        ready_sender.send(true).unwrap();
        let mut view = heartbeat.nodes.clone();
        let task = tokio::spawn(async move { heartbeat.keep_status().await });
        link.wait("ready", |link| ready_status(link).as_deref() == Some("True")).await;
        let declare_unknown = |link: &FakeLink| {
            let mut node = link.stored(NODES, &ObjectKey::cluster("n")).unwrap();
            for condition in node["status"]["conditions"].as_array_mut().unwrap() {
                condition["status"] = "Unknown".into();
            }
            link.put(NODES, node)
        };
        view.apply(declare_unknown(&link));
        link.wait("ready again", |link| ready_status(link).as_deref() == Some("True")).await;
        // Declared so once more; the node was told of nothing in between.
        declare_unknown(&link);
        link.wait("ready once more", |link| ready_status(link).as_deref() == Some("True")).await;
        task.abort();
    }

    #[tokio::test]
    async fn a_node_that_was_declared_unknown_says_that_it_is_back() {
        let link = FakeLink::new();
        let (heartbeat, ready_sender) = heartbeat(&link);
        ready_sender.send(true).unwrap();
        let resumed = heartbeat.resumed.clone();
        let task = tokio::spawn(async move { heartbeat.keep_status().await });
        link.wait("ready", |link| ready_status(link).as_deref() == Some("True")).await;
        let mut node = link.stored(NODES, &ObjectKey::cluster("n")).unwrap();
        for condition in node["status"]["conditions"].as_array_mut().unwrap() {
            condition["status"] = "Unknown".into();
        }
        link.put(NODES, node);
        resumed.notify_one();
        link.wait("ready again", |link| ready_status(link).as_deref() == Some("True")).await;
        task.abort();
    }

    #[tokio::test]
    async fn what_somebody_deletes_comes_back() {
        let link = FakeLink::new();
        let (heartbeat, _ready) = heartbeat(&link);
        heartbeat.write_status(true).await.unwrap();
        link.remove(NODES, &ObjectKey::cluster("n"));
        heartbeat.write_status(true).await.unwrap();
        assert_eq!(ready_status(&link).as_deref(), Some("True"));
    }
}
