//! Guests that do little beside others that compute, and how promptly they are served: answers over HTTP, commands, lines
//! of a log, the start of a pod, probes. All through the doors that users have.

use crate::{
    Cluster, Kubectl, guest,
    network::{endpoints, get, node_port, service},
    pods::{self, container, running},
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

/// Between two lines of the pod that writes some.
const LINE_INTERVAL: Duration = Duration::from_millis(50);

/// See the module. All is in namespace default.
pub struct Bystanders<'a> {
    cluster: &'a Cluster,
    kubectl: Kubectl,
    server: SocketAddr,
    pods: usize,
}

/// A pod that computes for ever, with such a request of CPU.
#[must_use]
pub fn spinner(name: &str, request: Option<&str>) -> Value {
    let mut container = json!({"image": "toolbox:1", "args": ["spin"]});
    if let Some(cpu) = request {
        container["resources"] = json!({"requests": {"cpu": cpu}});
    }
    pods::pod(name, "Always", &container)
}

impl<'a> Bystanders<'a> {
    /// Starts `web`, which answers HTTP, requests 100m and is probed every second with a second of patience, `idle`, and
    /// `writer`, which writes lines. The images are there for spinners too.
    pub fn prepare(cluster: &'a Cluster) -> Self {
        cluster.push(&guest("toolbox.wasm"), "toolbox:1");
        cluster.push(&guest("http.wasm"), "http:1");
        let kubectl = cluster.kubectl();
        let probe = json!({"httpGet": {"port": 8080, "path": "/hello"}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1});
        let mut web = pods::pod(
            "web",
            "Always",
            &json!({
                "image": "http:1", "ports": [{"containerPort": 8080}],
                "resources": {"requests": {"cpu": "100m"}}, "readinessProbe": probe, "livenessProbe": probe,
            }),
        );
        web["metadata"]["labels"] = json!({"app": "web"});
        let port = json!({"type": "NodePort", "ports": [{"port": 8080}]});
        let interval = LINE_INTERVAL.as_secs_f64().to_string();
        let idle = pods::toolbox("idle", "Always", &["wait-eof"]);
        let writer = pods::toolbox("writer", "Always", &["count", &interval]);
        pods::apply(&kubectl, "default", &[web, service("web", "web", &port), idle, writer]);
        endpoints(&kubectl, "web", 1);
        running(&kubectl, "idle");
        running(&kubectl, "writer");
        let server = node_port(cluster, "web", "");
        crate::eventually("an answer", || get(server, "/hello").map(drop));
        Self { cluster, kubectl, server, pods: 0 }
    }

    /// How long an HTTP request takes from a client outside the cluster, on a connection of its own.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn answer(&self) -> Duration {
        let began = Instant::now();
        let answer = get(self.server, "/hello").unwrap_or_else(|error| panic!("no answer: {error}"));
        assert_eq!(answer.text(), "hello\n");
        began.elapsed()
    }

    /// How long a command in a container takes, with the client's program.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn command(&self) -> Duration {
        let began = Instant::now();
        let said = self.cluster.coracle("exec idle -- echo hello");
        assert_eq!(said.as_deref(), Ok("hello\n"));
        began.elapsed()
    }

    /// How long it takes from the creation of a pod until its status says that it has ended and its log is there.
    ///
    /// # Panics
    /// When its log is not what it wrote.
    #[must_use]
    pub fn whole_pod(&mut self) -> Duration {
        let name = format!("short-{}", self.pods);
        self.pods += 1;
        let began = Instant::now();
        pods::apply(&self.kubectl, "default", &[pods::toolbox(&name, "Never", &["echo", "hello"])]);
        pods::phase(&self.kubectl, &name, "Succeeded");
        assert_eq!(self.kubectl.run(&format!("logs {name}")).as_deref(), Ok("hello\n"));
        began.elapsed()
    }

    /// How much later each of the next lines came than the one before it should have had it: the guest's timer, its
    /// output, and its way to the log, whose times these are.
    ///
    /// # Panics
    /// When there is no log.
    #[must_use]
    pub fn lines(&self, count: usize) -> Vec<Duration> {
        thread::sleep(LINE_INTERVAL * u32::try_from(count).unwrap_or(u32::MAX));
        let log = self.kubectl.run(&format!("logs writer --timestamps --tail={}", count + 1));
        let log = log.unwrap_or_else(|error| panic!("no log: {error}"));
        let times = log.lines().filter_map(|line| time_of_day(line.split(' ').next()?)).collect::<Vec<_>>();
        let gaps = times.windows(2).filter_map(|pair| pair[1].checked_sub(pair[0]));
        gaps.map(|gap| gap.saturating_sub(LINE_INTERVAL)).collect()
    }

    /// No probe has failed so far.
    ///
    /// # Panics
    /// When one has.
    pub fn assert_probes_were_answered(&self) {
        let pod = self.kubectl.json("get pod web").unwrap_or_else(|error| panic!("no pod: {error}"));
        assert_eq!((&container(&pod)["restartCount"], &container(&pod)["ready"]), (&json!(0), &json!(true)), "{pod}");
        let events = self.kubectl.run("get events --field-selector reason=Unhealthy,involvedObject.name=web");
        let events = events.unwrap_or_else(|error| panic!("no events: {error}"));
        assert!(!events.contains("Unhealthy"), "{events}");
    }
}

/// The time in a text like `2026-01-31T23:59:59.123456789Z`, since midnight.
fn time_of_day(text: &str) -> Option<Duration> {
    let time = text.split_once('T')?.1.trim_end_matches('Z');
    let mut parts = time.splitn(3, ':');
    let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
    let seconds = Duration::from_secs_f64(parts.next()?.parse().ok()?);
    Some(Duration::from_secs((hours * 60 + minutes) * 60) + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(time_of_day("2026-01-31T01:02:03.5Z"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(time_of_day("yesterday"), None);
    }
}
