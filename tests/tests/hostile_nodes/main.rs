//! A node that was taken over: real credentials, and nothing of what an agent promises. Whatever it tries for others is
//! refused, with words that say why, and the cluster goes on.

mod detour;
mod floods;
mod impostor;
mod quic;
mod traffic;

use coracle_tests::{
    Kubectl, eventually, guest,
    hosts::{Realm, SERVER},
    pods::{self, container, running, toolbox},
};
use coracle_wire::v1::{
    ExecRequest, LogRequest, NodeHello, NodePing, NodeSignal, ServerSignal, SessionFrame, SessionInput, node_signal,
    pod_logs_client::PodLogsClient, pod_sessions_client::PodSessionsClient, server_signal::Signal, session_frame,
    session_input,
};
use impostor::{CONFIG_MAPS, Impostor, LEASES, NODES, PODS, SECRETS, SLICES};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// A node that is as it should be, with one pod, `victim`, that a secret and a config map belong to; and credentials of
/// nodes that nobody runs.
fn realm() -> (Realm, Kubectl) {
    let mut realm = Realm::unstarted(&["good", "evil", "evil-2"]);
    realm.start_server();
    realm.start_node("good");
    realm.ready("good", "True");
    realm.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = realm.kubectl();
    kubectl.run("create secret generic treasure --from-literal=key=value").unwrap();
    kubectl.run("create configmap plan --from-literal=key=value").unwrap();
    let mut victim = toolbox("victim", "Always", &["count", "0.2"]);
    victim["spec"]["nodeName"] = "good".into();
    victim["spec"]["containers"][0]["envFrom"] =
        json!([{"secretRef": {"name": "treasure"}}, {"configMapRef": {"name": "plan"}}]);
    pods::apply(&kubectl, "default", &[victim]);
    running(&kubectl, "victim");
    (realm, kubectl)
}

fn impostor(realm: &Realm, node: &str) -> Impostor {
    Impostor::new(realm, realm.host(node), node)
}

/// The good node and its pod are as they were, and commands reach them.
fn cluster_goes_on(realm: &mut Realm, kubectl: &Kubectl) {
    realm.ready("good", "True");
    let pod = running(kubectl, "victim");
    assert_eq!(container(&pod)["restartCount"], 0, "{pod}");
    assert_eq!(kubectl.run("exec victim -- toolbox echo still here").unwrap().trim(), "still here");
    let lines = kubectl.run("logs victim").unwrap().lines().count();
    eventually("the log to grow", || {
        let now = kubectl.run("logs victim")?.lines().count();
        if now > lines { Ok(()) } else { Err(format!("{now} lines")) }
    });
    realm.assert_runs("good");
    realm.assert_runs(SERVER);
}

/// Waits for an event about a node.
fn has_event(kubectl: &Kubectl, node: &str, reason: &str, part: &str) {
    eventually(&format!("an event {reason} about {node} that says {part:?}"), || {
        let events = kubectl.json(&format!("get events -A --field-selector reason={reason}"))?;
        let told = events["items"].as_array().unwrap().iter().any(|event| {
            event["involvedObject"]["name"] == node && event["message"].as_str().unwrap_or_default().contains(part)
        });
        if told { Ok(()) } else { Err(events["items"].to_string()) }
    });
}

/// Waits until a node has said where others reach it.
fn is_tunnel_ready(kubectl: &Kubectl, node: &str) {
    eventually("the node's end of the tunnel", || {
        let object = kubectl.json(&format!("get node {node}"))?;
        let annotations = &object["metadata"]["annotations"];
        if annotations["coracle.dev/tunnel"].is_string() { Ok(()) } else { Err(annotations.to_string()) }
    });
}

/// What was refused because it is not this node's to do, in these words.
fn is_refused<T>(what: &str, outcome: Result<T, Status>, words: &str) {
    let Err(status) = outcome else { panic!("{what} is allowed") };
    assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
    assert!(status.message().contains(words), "{what} is refused without {words:?}: {}", status.message());
}

/// The object with a field of its metadata or status changed.
fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = object.clone();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = if parent.is_empty() { &mut changed } else { changed.pointer_mut(parent).unwrap() };
    parent[field] = value;
    changed
}

#[test]
fn a_node_speaks_for_itself_and_its_own_pods_only() {
    let (mut realm, kubectl) = realm();
    let evil = impostor(&realm, "evil");
    let user = "User \"system:node:evil\" cannot";
    let object = |words: &str| kubectl.json(words).unwrap();
    let (victim, good) = (object("get pod victim"), object("get node good"));
    let lease = object("get lease good -n kube-node-lease");

    let dead = with(&victim, "/status/phase", "Failed".into());
    is_refused("status of another's pod", evil.update(PODS, "status", &dead), user);
    is_refused("another's pod", evil.get(PODS, "default", "victim"), user);
    is_refused("the end of another's pod", evil.delete(PODS, "default", "victim"), user);
    is_refused("a change of another's pod", evil.update(PODS, "", &victim), user);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "victim"},
        "target": {"kind": "Node", "name": "evil"}});
    is_refused("a binding", evil.create_below(PODS, "default", "victim", "binding", &binding), user);
    is_refused("all pods", evil.list(PODS, ""), user);
    is_refused("another's pods", evil.list(PODS, "spec.nodeName=good"), user);
    is_refused("news of another's pods", evil.watch(PODS, "spec.nodeName=good"), user);
    is_refused("news of all pods", evil.watch(PODS, ""), user);

    is_refused("a secret that none of its pods has", evil.get(SECRETS, "default", "treasure"), user);
    is_refused("all secrets", evil.list(SECRETS, ""), user);
    is_refused("news of secrets", evil.watch(SECRETS, ""), user);
    is_refused("a config map that none of its pods has", evil.get(CONFIG_MAPS, "default", "plan"), user);
    is_refused("all config maps", evil.list(CONFIG_MAPS, ""), user);

    let unready = with(&good, "/status/conditions", json!([]));
    is_refused("another node's status", evil.update(NODES, "status", &unready), user);
    is_refused("another node", evil.update(NODES, "", &with(&good, "/metadata/labels/x", "y".into())), user);
    is_refused("the end of another node", evil.delete(NODES, "", "good"), user);
    is_refused("the end of its own node", evil.delete(NODES, "", "evil"), user);
    let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    is_refused("a node of another name", evil.create(NODES, "", &node("other")), user);
    is_refused("another node's lease", evil.update(LEASES, "", &lease), user);
    is_refused("a look at another node's lease", evil.get(LEASES, "kube-node-lease", "good"), user);
    is_refused("the end of another node's lease", evil.delete(LEASES, "kube-node-lease", "good"), user);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s", "namespace": "default"}, "endpoints": []});
    is_refused("endpoints", evil.create(SLICES, "default", &slice), user);

    // Its own node is its own, but for what people and controllers say of it.
    evil.create(NODES, "", &node("evil")).unwrap();
    let own = |pointer: &str, value: Value| {
        evil.change((NODES, ""), ("", "evil"), |node| *node = with(node, pointer, value.clone()))
    };
    let taints = json!([{"key": "a", "effect": "NoSchedule"}]);
    is_refused("its own taints", own("/spec/taints", taints), "modify its own spec");
    is_refused("its own range", own("/spec/podCIDR", "10.244.255.0/24".into()), "modify its own spec");
    let role = json!({"node-role.kubernetes.io/control-plane": ""});
    is_refused("its own role", own("/metadata/labels", role), "is not allowed to modify labels");
    let mut mirror = toolbox("mirror", "Always", &["wait-eof"]);
    mirror["spec"]["nodeName"] = "good".into();
    is_refused("a pod", evil.create(PODS, "default", &mirror), "mirrors of its static pods");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    is_refused("a mirror on another node", evil.create(PODS, "default", &mirror), "spec.nodeName evil");
    mirror["spec"]["nodeName"] = "evil".into();
    mirror["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "treasure"}}]);
    is_refused("a mirror that names a secret", evil.create(PODS, "default", &mirror), "only the server has");
    cluster_goes_on(&mut realm, &kubectl);
}

/// A control stream whose first word is a hello of this name; what the server says on it.
fn control(impostor: &Impostor, name: &str) -> (mpsc::Sender<NodeSignal>, Streaming<ServerSignal>) {
    let (sender, receiver) = mpsc::channel(4);
    let hello = NodeSignal {
        signal: Some(node_signal::Signal::Hello(NodeHello { node_name: name.to_owned(), lease_seconds: 0 })),
    };
    sender.try_send(hello).unwrap();
    let mut link = impostor.link();
    let stream = impostor.does(async move { link.control(ReceiverStream::new(receiver)).await });
    (sender, stream.unwrap().into_inner())
}

/// What a session with this id is answered.
fn session(impostor: &Impostor, id: &str) -> Result<Option<SessionFrame>, Status> {
    let (sender, receiver) = mpsc::channel(4);
    let first = SessionFrame { frame: Some(session_frame::Frame::SessionId(id.to_owned())) };
    sender.try_send(first).unwrap();
    let mut link = impostor.link();
    impostor.does(async move {
        let answer = link.session(ReceiverStream::new(receiver)).await?.into_inner().message().await;
        drop(sender);
        answer
    })
}

#[test]
fn a_node_is_asked_for_nothing_of_another_and_answers_for_none() {
    let (mut realm, kubectl) = realm();
    let evil = impostor(&realm, "evil");

    let (_sender, mut stream) = control(&evil, "good");
    let refusal = evil.does(async move { stream.message().await });
    is_refused("a hello of another name", refusal, "the credentials are those of node \"evil\", not of \"good\"");
    let mut link = evil.link();
    let (silent, receiver) = mpsc::channel(1);
    silent.try_send(NodeSignal { signal: None }).unwrap();
    let nothing =
        evil.does(async move { link.control(ReceiverStream::new(receiver)).await?.into_inner().message().await });
    assert!(nothing.unwrap_err().message().contains("begins with hello"));

    // What people may ask of pods is nothing that nodes may ask.
    let (namespace, pod) = ("default".to_owned(), "victim".to_owned());
    let mut logs = PodLogsClient::new(evil.channel.clone());
    let request = LogRequest { namespace: namespace.clone(), pod: pod.clone(), ..LogRequest::default() };
    let read = evil.does(async move { logs.read(request).await?.into_inner().message().await });
    is_refused("another's log", read, "User \"system:node:evil\" cannot");
    let mut sessions = PodSessionsClient::new(evil.channel.clone());
    let command = vec!["toolbox".to_owned(), "env".to_owned()];
    let exec = ExecRequest { namespace, pod, command, stdout: true, ..ExecRequest::default() };
    let input = SessionInput { input: Some(session_input::Input::Exec(exec)) };
    let ran = evil.does(async move { sessions.exec(tokio_stream::once(input)).await?.into_inner().message().await });
    is_refused("a command in another's pod", ran, "User \"system:node:evil\" cannot");

    // Sessions of others cannot be taken: neither by guessing while somebody reads a log, nor by knowing the id.
    let mut follow = kubectl.command(["logs", "-f", "victim"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    for guess in 0..300 {
        let refusal = session(&evil, &format!("{guess:032x}")).unwrap_err();
        assert_eq!((refusal.code(), refusal.message()), (Code::NotFound, "nobody waits for this session"));
    }
    assert!(follow.try_wait().unwrap().is_none(), "the log that somebody reads has ended");
    follow.kill().unwrap();
    follow.wait().unwrap();

    register(&evil, "evil");
    let mut bait = toolbox("bait", "Always", &["wait-eof"]);
    bait["spec"]["nodeName"] = "evil".into();
    pods::apply(&kubectl, "default", &[bait]);
    let running = json!({"phase": "Running", "containerStatuses": [{"name": "main", "image": "x", "imageID": "x",
        "ready": true, "restartCount": 0, "started": true, "containerID": "coracle://x",
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]});
    evil.change((PODS, "status"), ("default", "bait"), |pod| pod["status"] = running.clone()).unwrap();
    let (sender, mut stream) = control(&evil, "evil");
    sender.try_send(NodeSignal { signal: Some(node_signal::Signal::Ping(NodePing::default())) }).unwrap();
    let (pong, mut stream) = evil.does(async move { (stream.message().await, stream) });
    // Now it counts as connected.
    assert!(matches!(pong.unwrap().and_then(|signal| signal.signal), Some(Signal::Pong(_))));
    let reader = {
        let kubectl = kubectl.clone();
        std::thread::spawn(move || kubectl.run("logs bait"))
    };
    let asked = evil.does(async move { stream.message().await }).unwrap().and_then(|signal| signal.signal);
    let Some(Signal::OpenSession(asked)) = asked else { panic!("it is asked for no session: {asked:?}") };
    let other = impostor(&realm, "evil-2");
    let refusal = session(&other, &asked.session_id).unwrap_err();
    assert_eq!((refusal.code(), refusal.message()), (Code::NotFound, "nobody waits for this session"));
    let end = SessionFrame { frame: Some(session_frame::Frame::Data("from evil itself\n".into())) };
    let first = SessionFrame { frame: Some(session_frame::Frame::SessionId(asked.session_id)) };
    let last = SessionFrame { frame: Some(session_frame::Frame::End(coracle_wire::v1::SessionEnd::default())) };
    let mut link = evil.link();
    evil.does(async move {
        let mut answer = link.session(tokio_stream::iter([first, end, last])).await.unwrap().into_inner();
        while let Ok(Some(_)) = answer.message().await {}
    });
    assert_eq!(reader.join().unwrap().unwrap(), "from evil itself\n");
    cluster_goes_on(&mut realm, &kubectl);
}

/// Makes the impostor's own Node, which is then told that it is ready, and needs no more.
fn register(evil: &Impostor, name: &str) {
    evil.create(NODES, "", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})).unwrap();
    let ready = json!([{"type": "Ready", "status": "True", "reason": "AgentReady", "message": "",
        "lastHeartbeatTime": null, "lastTransitionTime": null}]);
    let status = json!({"conditions": ready});
    evil.change((NODES, "status"), ("", name), |node| node["status"] = status.clone()).unwrap();
}
