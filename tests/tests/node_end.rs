//! The end of a node: pods get their grace, the server and the service manager hear of it, and who asks twice does not wait.

use coracle_tests::{
    Fleet, eventually, guest,
    pods::{self, running, toolbox},
};
use serde_json::{Value, json};
use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// What a pod does before it ends: more than a node gave pods that end with it before it followed their grace.
const HOOK: Duration = Duration::from_secs(8);
/// Exit code of a node that was asked twice.
const INTERRUPTED: i32 = 130;

/// A service manager that listens.
struct Manager(Arc<Mutex<Vec<String>>>);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let all = heard.clone();
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count) = socket.recv(&mut bytes) {
                all.lock().unwrap().push(String::from_utf8_lossy(&bytes[..count]).into_owned());
            }
        });
        Self(heard)
    }

    fn count(&self, word: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|text| text.lines().any(|line| line == word)).count()
    }

    fn until(&self, word: &str, times: usize) {
        eventually(&format!("{word:?}, {times} times"), || match self.count(word) {
            count if count >= times => Ok(()),
            count => Err(format!("{count}")),
        });
    }
}

fn ready(pod: &Value) -> &Value {
    pods::condition(pod, "Ready")
}

#[test]
fn a_node_ends_with_its_pods_grace_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = Manager::at(&path);
    let mut fleet = Fleet::unstarted(1)
        .with_node_arguments(&["--heartbeat-interval", "1"])
        .with_environment(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "400000")])
        .up();
    manager.until("READY=1", 1);
    manager.until("WATCHDOG=1", 3);
    fleet.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = fleet.kubectl();
    let mut slow = pods::on("node-0", toolbox("slow", "Always", &["wait-eof"]));
    slow["spec"]["terminationGracePeriodSeconds"] = json!(30);
    slow["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": HOOK.as_secs()}}});
    pods::apply(&kubectl, "default", &[slow]);
    running(&kubectl, "slow");

    let asked = Instant::now();
    fleet.ask_node_to_end(0);
    manager.until("STOPPING=1", 1);
    // Everybody knows before the pod has ended.
    let withdrawn = pods::until(&kubectl, "slow", "not ready", |pod| ready(pod)["status"] == "False");
    assert_eq!(ready(&withdrawn)["reason"], "NodeShutdown", "{withdrawn}");
    fleet.until_condition(0, "Ready", "False");
    let status = fleet.node_end(0);
    assert!(status.success() && asked.elapsed() >= HOOK, "{status} after {:?}: {}", asked.elapsed(), fleet.logs());

    fleet.start_node(0);
    fleet.until_ready(0);
    pods::until(&kubectl, "slow", "ready again", |pod| ready(pod)["status"] == "True");
    fleet.ask_node_to_end(0);
    manager.until("STOPPING=1", 2);
    fleet.ask_node_to_end(0);
    assert_eq!(fleet.node_end(0).code(), Some(INTERRUPTED), "who asks twice does not wait");
}
