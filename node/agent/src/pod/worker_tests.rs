//! Whole pods against a fake control plane, fake images and a fake runner. Pods' time runs fast: what Kubernetes does
//! in ten seconds takes a tenth of one here.

use super::*;
use crate::{
    contact::Contact,
    context::Caches,
    events::Recorder,
    fake::{FakeChecks, FakeGuests, FakeLink, FakeSwitch, FakeWorkloads, eventually, offer},
    homes::Homes,
    ledger::Ledger,
    link::{CONFIG_MAPS, EVENTS, NAMESPACES, PODS},
    logs::Logs,
    pod::{
        admission::{Offer, Room},
        manager::{Manager, Registry},
        probes::Probes,
        status::EVICTED,
    },
    pressure::Pressure,
    reports::Reports,
    sandbox::Owners,
    view::View,
};
use coracle_objects::ObjectKey;
use serde_json::json;

#[path = "worker_absence_tests.rs"]
mod absence;
#[path = "worker_life_tests.rs"]
mod life;
#[path = "worker_traces_tests.rs"]
mod traces;

#[path = "worker_admission_tests.rs"]
mod admission;

const SPEED: u32 = 100;
/// After how long the control plane takes the node for gone, by a clock that does not run fast.
const LEASE: Duration = Duration::from_hours(1);

/// An agent without processes.
struct World {
    link: Arc<FakeLink>,
    guests: Arc<FakeGuests>,
    checks: Arc<FakeChecks>,
    workloads: Arc<FakeWorkloads>,
    switch: Arc<FakeSwitch>,
    context: Arc<Context>,
    registry: Registry,
    ready: watch::Receiver<bool>,
    directory: Arc<tempfile::TempDir>,
    pressure: watch::Sender<Pressure>,
    place: watch::Sender<place::Place>,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    owners: TaskTracker,
}

impl World {
    fn new() -> Self {
        let link = FakeLink::new();
        link.put(NAMESPACES, json!({"metadata": {"name": "default", "uid": "ns-1"}}));
        Self::on(link, Arc::new(tempfile::tempdir().unwrap()))
    }

    /// An agent on what an earlier one left.
    fn on(link: Arc<FakeLink>, directory: Arc<tempfile::TempDir>) -> Self {
        Self::with_range(link, directory, "10.244.4.0/22")
    }

    fn with_range(link: Arc<FakeLink>, directory: Arc<tempfile::TempDir>, range: &str) -> Self {
        Self::on_node(link, directory, range, offer())
    }

    fn on_node(link: Arc<FakeLink>, directory: Arc<tempfile::TempDir>, range: &str, offer: Offer) -> Self {
        let pressure = watch::Sender::new(Pressure::default());
        let place = watch::Sender::new(at("127.0.0.1"));
        let (guests, checks, workloads) = (FakeGuests::new(), FakeChecks::new(), FakeWorkloads::new());
        let (network, switch) = FakeSwitch::network(directory.path(), range);
        let (recorder, writer) = Recorder::new(link.clone(), "n");
        let ledger = Ledger::open(directory.path().join("ledger")).unwrap();
        let entries = ledger.load().unwrap();
        let owners = Arc::new(Owners::open(directory.path()).unwrap());
        let context = Arc::new(Context {
            link: link.clone(),
            workloads: workloads.clone(),
            checks: checks.clone(),
            guests: guests.clone(),
            network,
            recorder,
            reports: Reports::new(link.clone()),
            logs: Arc::new(Logs::open(directory.path().join("logs")).unwrap()),
            homes: Homes::new(directory.path(), owners.clone()),
            owners,
            ledger,
            caches: Caches::new(),
            room: Room::new(offer),
            pressure: pressure.subscribe(),
            data_dir: directory.path().to_owned(),
            place: place.subscribe(),
            probes: Probes::new(&Pace::fast(SPEED)),
            pace: Pace::fast(SPEED),
            contact: Arc::new(Contact::open(directory.path(), LEASE)),
            shutdown_grace: Duration::from_secs(5),
        });
        let (stop, (listed, ready)) = (CancellationToken::new(), watch::channel(false));
        let manager = Manager::new(context.clone(), entries, stop.clone(), listed);
        let (owners, registry) = (manager.tasks(), manager.registry());
        let view = View::open(link.clone(), context.caches.clone(), Box::new(manager), None);
        let tasks = vec![
            tokio::spawn(view.run(stop.clone())),
            tokio::spawn(context.reports.clone().run(stop.clone())),
            tokio::spawn(writer.run()),
        ];
        Self {
            link,
            guests,
            checks,
            workloads,
            switch,
            context,
            registry,
            ready,
            directory,
            pressure,
            place,
            stop,
            tasks,
            owners,
        }
    }

    /// Ends this agent as Ctrl-C would, and answers what a next one starts from.
    async fn restart(self) -> Self {
        self.stop.cancel();
        self.owners.close();
        self.owners.wait().await;
        for task in self.tasks {
            task.abort();
        }
        Self::on(self.link, self.directory)
    }

    fn pod(&self) -> Value {
        self.link.stored(PODS, &key()).unwrap_or_default()
    }

    async fn until(&self, what: &str, check: impl Fn(&Value) -> bool) {
        self.link.wait(what, |link| check(&link.stored(PODS, &key()).unwrap_or_default())).await;
    }

    async fn event(&self, reason: &str, message: &str) {
        self.link
            .wait(&format!("event {reason}: {message}"), |link| {
                link.all(EVENTS).iter().any(|event| {
                    event["reason"] == reason && event["message"].as_str().is_some_and(|text| text.contains(message))
                })
            })
            .await;
    }
}

/// A node that has this address.
fn at(address: &str) -> place::Place {
    place::Place { address: address.to_owned(), ..place::Place::default() }
}

fn key() -> ObjectKey {
    ObjectKey::namespaced("default", "p")
}

fn pod(spec: &Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": "p", "uid": "u-1"}, "spec": spec, "status": {"phase": "Pending"}})
}

fn app(status: &Value) -> &Value {
    &status["status"]["containerStatuses"][0]
}

fn waits_with(pod: &Value, reason: &str) -> bool {
    app(pod)["state"]["waiting"]["reason"] == reason
}

fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

fn simple(policy: &str) -> Value {
    pod(&json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "img:1"}]}))
}

#[tokio::test]
async fn a_pod_runs_through_its_init_containers_and_is_deleted() {
    let world = World::new();
    world.link.put(
        PODS,
        pod(&json!({
            "initContainers": [{"name": "i", "image": "init:1"}],
            "containers": [{"name": "a", "image": "img:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        })),
    );
    world.until("init runs", |pod| pod["status"]["initContainerStatuses"][0]["started"] == true).await;
    assert_eq!(phase(&world.pod()), "Pending");
    assert!(world.directory.path().join("ns/ns-1/volumes/u-1/v").is_dir());
    world.guests.exit("i", 0);
    world.until("the app runs", |pod| phase(pod) == "Running").await;
    let guest = world.guests.running("a").unwrap();
    assert_eq!(guest.argv, ["img"]);
    let sources: Vec<_> = guest.mounts.iter().filter_map(|mount| mount.source.to_str()).collect();
    assert_eq!(sources, ["volumes/u-1/.layers/a", "volumes/u-1/v"]);
    world.event("Pulling", "Pulling image \"img:1\"").await;
    world.event("Pulled", "Successfully pulled image \"img:1\" in").await;
    world.event("Created", "Created container: a").await;
    world.event("Started", "Started container a").await;
    assert!(world.context.logs.live("u-1", "a").is_some());

    let mut deleted = world.pod();
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    deleted["metadata"]["deletionGracePeriodSeconds"] = 7.into();
    let asked = world.context.pace.now();
    world.link.put(PODS, deleted);
    world.event("Killing", "Stopping container a").await;
    world.link.wait("deleted", |link| link.stored(PODS, &key()).is_none()).await;
    assert!(world.context.pace.now() >= asked + Duration::from_secs(7), "it was given its grace");
    assert_eq!(world.guests.stopped(), ["a"]);
    let left = world.directory.path().join("ns/ns-1/volumes/u-1");
    eventually("nothing is left", || !left.exists() && world.context.logs.live("u-1", "a").is_none()).await;
}

#[tokio::test]
async fn a_guest_that_stops_when_asked_is_not_waited_for() {
    let world = World::new();
    world.guests.obedient();
    world.link.put(PODS, simple("Always"));
    world.until("running", |pod| phase(pod) == "Running").await;
    let mut deleted = world.pod();
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    // Far longer than the test waits.
    deleted["metadata"]["deletionGracePeriodSeconds"] = 1_000_000.into();
    world.link.put(PODS, deleted);
    world.link.wait("deleted", |link| link.stored(PODS, &key()).is_none()).await;
}

#[tokio::test]
async fn what_others_say_of_a_pod_in_this_nodes_place_is_put_right() {
    let world = World::new();
    world.link.put(PODS, simple("Always"));
    let says = |pod: &Value, ready: &str| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == ready)
    };
    world.until("ready", |pod| says(pod, "True")).await;
    let mut marked = world.pod();
    for one in marked["status"]["conditions"].as_array_mut().unwrap().iter_mut().filter(|one| one["type"] == "Ready") {
        one["status"] = "False".into();
        one["reason"] = nodes::POD_MARK_REASON.into();
    }
    world.link.put(PODS, marked);
    world.until("ready again", |pod| says(pod, "True") && !nodes::is_pod_marked(pod)).await;
}

#[tokio::test]
async fn a_crashing_container_loops_and_its_counts_are_right() {
    let world = World::new();
    world.link.put(PODS, simple("Always"));
    for restarts in 0..3 {
        world.until("running", |pod| app(pod)["started"] == true && app(pod)["restartCount"] == restarts).await;
        world.guests.exit("a", 2);
    }
    world.until("it loops", |pod| waits_with(pod, "CrashLoopBackOff")).await;
    let pod = world.pod();
    assert_eq!(phase(&pod), "Running");
    assert_eq!(app(&pod)["lastState"]["terminated"]["exitCode"], 2);
    world.event("BackOff", "Back-off restarting failed container a in pod p_default(u-1)").await;
    world.until("it runs again", |pod| app(pod)["restartCount"] == 3 && app(pod)["started"] == true).await;
}

#[tokio::test]
async fn a_missing_image_backs_off_and_is_tried_again() {
    let world = World::new();
    world.workloads.fail_pull(Some("not found in registry r"));
    world.link.put(PODS, simple("Always"));
    world.until("the error", |pod| waits_with(pod, "ErrImagePull")).await;
    world.event("Failed", "Failed to pull image \"img:1\": not found in registry r").await;
    world.event("Failed", "Error: ErrImagePull").await;
    world.until("the back-off", |pod| waits_with(pod, "ImagePullBackOff")).await;
    world.event("BackOff", "Back-off pulling image \"img:1\"").await;
    world.until("the error again", |pod| waits_with(pod, "ErrImagePull")).await;
    world.workloads.fail_pull(None);
    world.until("running", |pod| phase(pod) == "Running").await;
}

#[tokio::test]
async fn what_cannot_be_compiled_names_the_import() {
    let world = World::new();
    world.workloads.fail_compile(Some("unknown import: `env::magic`"));
    world.link.put(PODS, simple("Never"));
    world.until("the error", |pod| waits_with(pod, "CreateContainerError")).await;
    world.event("Failed", "unknown import: `env::magic`").await;
    assert_eq!(phase(&world.pod()), "Pending");
}

#[tokio::test]
async fn missing_config_maps_hold_a_pod_until_they_appear() {
    let world = World::new();
    world.link.put(
        PODS,
        pod(&json!({
            "containers": [{"name": "a", "image": "img:1", "envFrom": [{"configMapRef": {"name": "env"}}]}],
            "volumes": [{"name": "v", "configMap": {"name": "files"}}],
        })),
    );
    world.event("FailedMount", "MountVolume.SetUp failed for volume \"v\" : configmap \"files\" not found").await;
    assert!(waits_with(&world.pod(), "ContainerCreating"));
    let config = |name: &str| json!({"metadata": {"namespace": "default", "name": name}, "data": {"KEY": "value"}});
    world.link.put(CONFIG_MAPS, config("files"));
    world.until("the environment", |pod| waits_with(pod, "CreateContainerConfigError")).await;
    world.event("Failed", "Error: configmap \"env\" not found").await;
    world.link.put(CONFIG_MAPS, config("env"));
    world.until("running", |pod| phase(pod) == "Running").await;
    assert!(world.guests.running("a").unwrap().env.contains(&("KEY".to_owned(), "value".to_owned())));
}

#[tokio::test]
async fn a_dead_runner_restarts_its_guests_by_policy() {
    let world = World::new();
    world.link.put(PODS, simple("OnFailure"));
    world.until("running", |pod| phase(pod) == "Running").await;
    world.guests.die();
    world.until("it runs again", |pod| app(pod)["restartCount"] == 1 && app(pod)["started"] == true).await;
    let pod = world.pod();
    let end = &app(&pod)["lastState"]["terminated"];
    assert_eq!((end["exitCode"].as_i64(), end["reason"].as_str()), (Some(137), Some("Error")));
}

#[tokio::test]
async fn restarts_of_the_agent_are_those_of_a_node() {
    for (policy, ends_before, expected_phase, restarts) in [
        ("Always", None, "Running", 1),
        ("OnFailure", None, "Running", 1),
        ("Never", None, "Failed", 0),
        ("Never", Some(0), "Succeeded", 0),
        ("OnFailure", Some(0), "Succeeded", 0),
    ] {
        let world = World::new();
        world.guests.obedient();
        world.link.put(PODS, simple(policy));
        world.until("running", |pod| phase(pod) == "Running").await;
        if let Some(code) = ends_before {
            world.guests.exit("a", code);
            world.until("ended", |pod| phase(pod) == "Succeeded").await;
        }
        let world = world.restart().await;
        world
            .until(&format!("{policy} after the restart"), |pod| {
                let started = app(pod)["started"] == (expected_phase == "Running");
                phase(pod) == expected_phase && app(pod)["restartCount"] == restarts && started
            })
            .await;
        assert_eq!(world.guests.running("a").is_some(), expected_phase == "Running", "{policy}");
    }
}

#[tokio::test]
async fn pods_deleted_while_the_agent_was_away_are_cleaned_up() {
    let world = World::new();
    world.link.put(PODS, simple("Always"));
    world.until("running", |pod| phase(pod) == "Running").await;
    world.stop.cancel();
    world.owners.close();
    world.owners.wait().await;
    world.link.remove(PODS, &key());
    let directory = world.directory.clone();
    let _next = World::on(world.link.clone(), directory.clone());
    let entry = directory.path().join("ledger/u-1.json");
    let logs = directory.path().join("logs/default_p_u-1");
    eventually("nothing is left", || !entry.exists() && !logs.exists()).await;
}

#[tokio::test]
async fn a_pod_that_had_finished_before_is_left_as_it_is() {
    let world = World::new();
    let mut finished = simple("Never");
    finished["status"] = json!({"phase": "Succeeded", "containerStatuses": [{"name": "a"}]});
    world.link.put(PODS, finished.clone());
    let other = json!({"metadata": {"namespace": "default", "name": "other", "uid": "u-2"},
        "spec": {"containers": [{"name": "b", "image": "img:1"}]}, "status": {}});
    world.link.put(PODS, other);
    world.link.wait("the other runs", |_| world.guests.running("b").is_some()).await;
    assert!(world.guests.running("a").is_none());
    assert_eq!(world.pod()["status"], finished["status"]);
}

#[tokio::test]
async fn an_active_deadline_ends_the_pod() {
    let world = World::new();
    let mut limited = simple("Always");
    limited["spec"]["activeDeadlineSeconds"] = 60.into();
    // Real time does not pass in this test: the pod was started long ago.
    limited["status"]["startTime"] = "2020-01-01T00:00:00Z".into();
    world.link.put(PODS, limited);
    world.until("failed", |pod| phase(pod) == "Failed" && pod["status"]["reason"] == "DeadlineExceeded").await;
    assert!(world.guests.running("a").is_none());
}

/// Another pod beside `p`.
fn named(name: &str, policy: &str) -> Value {
    let mut pod = simple(policy);
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["uid"] = format!("u-{name}").into();
    pod["spec"]["containers"][0]["name"] = name.into();
    pod
}

fn address(pod: &Value) -> &str {
    pod["status"]["podIP"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_pod_has_its_address_before_its_first_container_and_until_it_is_gone() {
    let world = World::new();
    world.guests.obedient();
    let mut wanted = simple("Always");
    wanted["spec"]["initContainers"] = json!([{"name": "i", "image": "init:1"}]);
    let env = json!([{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}]);
    wanted["spec"]["containers"][0]["env"] = env;
    wanted["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080}]);
    world.link.put(PODS, wanted);
    world.until("init runs", |pod| pod["status"]["initContainerStatuses"][0]["started"] == true).await;
    let ip = address(&world.pod()).to_owned();
    assert!(ip.starts_with("10.244."), "{ip}");
    assert_eq!(world.pod()["status"]["podIPs"], json!([{"ip": ip}]));
    assert_eq!(world.switch.address("u-1").unwrap().to_string(), ip);
    assert_eq!(world.guests.running("i").unwrap().network.addresses[0].to_string(), ip);
    world.guests.exit("i", 0);
    world.until("the app runs", |pod| phase(pod) == "Running").await;
    let guest = world.guests.running("a").unwrap();
    assert_eq!((guest.network.hostname.as_str(), guest.network.listen.as_slice()), ("p", [8080].as_slice()));
    for name in ["IP", "IPS"] {
        assert!(guest.env.contains(&(name.to_owned(), ip.clone())), "{:?}", guest.env);
    }

    world.guests.exit("a", 1);
    world.until("it was started again", |pod| app(pod)["restartCount"] == 1 && app(pod)["started"] == true).await;
    assert_eq!(address(&world.pod()), ip, "after a restart of the container");
    let world = world.restart().await;
    world.link.put(PODS, named("other", "Always"));
    world.link.wait("the other runs", |_| world.guests.running("other").is_some()).await;
    world.link.wait("it begins again", |_| world.guests.running("i").is_some()).await;
    assert_eq!(address(&world.pod()), ip, "after a restart of the agent");
    assert_eq!(world.switch.address("u-1").unwrap().to_string(), ip);
    assert_ne!(world.switch.address("u-other").unwrap().to_string(), ip);

    let mut deleted = world.pod();
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    world.link.put(PODS, deleted);
    world.link.wait("deleted", |link| link.stored(PODS, &key()).is_none()).await;
    eventually("it is off the network", || world.switch.address("u-1").is_none()).await;
    world.link.put(PODS, named("next", "Always"));
    world.link.wait("the next runs", |_| world.guests.running("next").is_some()).await;
    assert_ne!(world.switch.address("u-next").unwrap().to_string(), ip, "it was freed a moment ago");
}

#[tokio::test]
async fn a_pod_waits_until_there_is_an_address() {
    let link = FakeLink::new();
    link.put(NAMESPACES, json!({"metadata": {"name": "default", "uid": "ns-1"}}));
    // One address.
    let world = World::with_range(link, Arc::new(tempfile::tempdir().unwrap()), "10.244.4.0/30");
    world.link.put(PODS, named("first", "Always"));
    world.link.wait("the first runs", |_| world.guests.running("first").is_some()).await;
    world.link.put(PODS, simple("Always"));
    world.event("FailedCreatePodSandBox", "Failed to create pod sandbox: no free pod address in 10.244.4.0/30").await;
    assert!(waits_with(&world.pod(), "ContainerCreating") && world.guests.running("a").is_none());
    world.context.network.addresses.set_range("10.244.4.0/29");
    world.until("running", |pod| phase(pod) == "Running").await;
    assert_ne!(world.switch.address("u-1"), world.switch.address("u-first"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_goes_while_it_is_set_up_leaves_no_address() {
    let world = World::new();
    let adding = world.switch.slow();
    let wait = || tokio::task::block_in_place(|| adding.recv_timeout(Duration::from_secs(30))).unwrap();
    world.link.put(PODS, simple("Always"));
    wait();
    world.link.remove(PODS, &key());
    wait();
    eventually("it is off the network", || world.switch.address("u-1").is_none()).await;
    eventually("its address is free", || world.context.network.addresses.get("u-1").is_none()).await;
}

#[tokio::test]
async fn a_finished_pod_shows_its_address_and_holds_none() {
    let world = World::new();
    world.link.put(PODS, simple("Never"));
    world.until("running", |pod| phase(pod) == "Running").await;
    let ip = address(&world.pod()).to_owned();
    assert_eq!(world.switch.address("u-1").map(|address| address.to_string()), Some(ip.clone()));
    world.guests.exit("a", 0);
    world.until("ended", |pod| phase(pod) == "Succeeded").await;
    assert_eq!((address(&world.pod()), world.switch.address("u-1")), (ip.as_str(), None));
    let world = world.restart().await;
    world.link.put(PODS, named("next", "Always"));
    world.link.wait("the next runs", |_| world.guests.running("next").is_some()).await;
    assert_eq!((address(&world.pod()), world.switch.address("u-1")), (ip.as_str(), None));
    assert_eq!(world.context.network.addresses.get("u-1"), None);
}
