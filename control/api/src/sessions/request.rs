//! Who may open a session, which container is meant, whether it runs, and then the session with the pod's node. HTTP
//! and gRPC share it; nothing here changes an object. Refusals are in the words of kube-apiserver, kubelet and kubectl.

use crate::{
    door::{Door, Target, encode, gate::Asked, read_error},
    http::logs::container_of,
    identity::Identity,
    nodelink::Session,
};
use coracle_objects::{ApiError, Kind, catalogue, meta};
use coracle_wire::v1::{AttachRequest, ExecRequest, PortForwardRequest, open_session::Purpose};
use serde_json::Value;

/// Most words of a command.
const COMMAND_WORDS_MAX: usize = 1024;
/// Most bytes of a command's words together.
const COMMAND_BYTES_MAX: usize = 64 * 1024;

/// What a user asks a node for. The server fills in the pod's uid and, where none is named, the container.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// Run a command beside a container.
    Exec(ExecRequest),
    /// See what a container writes, and write to it.
    Attach(AttachRequest),
    /// One connection to a port of a pod.
    PortForward(PortForwardRequest),
    /// Connections to any of its ports, whose sessions the user opens one by one.
    Forwards(PortForwardRequest),
}

impl Wanted {
    /// The subresource whose rights it takes.
    fn subresource(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) | Self::Forwards(_) => "portforward",
        }
    }

    fn place(&self) -> (&str, &str) {
        match self {
            Self::Exec(ExecRequest { namespace, pod, .. })
            | Self::Attach(AttachRequest { namespace, pod, .. })
            | Self::PortForward(PortForwardRequest { namespace, pod, .. })
            | Self::Forwards(PortForwardRequest { namespace, pod, .. }) => (namespace, pod),
        }
    }

    /// The rules of `PodExecOptions`, `PodAttachOptions` and `PodPortForwardOptions`.
    fn check(&self) -> Result<(), ApiError> {
        let (stdin, stdout, stderr, tty) = match self {
            Self::Exec(exec) => {
                if exec.command.is_empty() {
                    return Err(ApiError::bad_request("you must specify at least 1 command for the container"));
                }
                let bytes: usize = exec.command.iter().map(String::len).sum();
                if exec.command.len() > COMMAND_WORDS_MAX || bytes > COMMAND_BYTES_MAX {
                    return Err(ApiError::bad_request(format!(
                        "a command has at most {COMMAND_WORDS_MAX} words of {COMMAND_BYTES_MAX} bytes together"
                    )));
                }
                (exec.stdin, exec.stdout, exec.stderr, exec.tty)
            }
            Self::Attach(attach) => (attach.stdin, attach.stdout, attach.stderr, attach.tty),
            // The port is named by each connection.
            Self::Forwards(_) => return Ok(()),
            Self::PortForward(forward) => {
                return match u16::try_from(forward.port) {
                    Ok(1..) => Ok(()),
                    _ => Err(ApiError::bad_request(format!(
                        "port {} is not valid: it must be between 1 and 65535",
                        forward.port
                    ))),
                };
            }
        };
        if tty && stderr {
            return Err(ApiError::bad_request("tty and stderr cannot both be true"));
        }
        if !(stdin || stdout || stderr) {
            return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(())
    }

    /// What the node is asked, with everything that it must know.
    fn purpose(self, pod: &Value) -> Result<Purpose, ApiError> {
        let uid = meta::uid(pod).to_owned();
        Ok(match self {
            Self::Exec(request) => {
                let container = container_of(pod, &request.container)?;
                refuse_completed(pod, "exec into")?;
                require_running(pod, &container)?;
                Purpose::Exec(ExecRequest { container, pod_uid: uid, ..request })
            }
            Self::Attach(request) => {
                let container = container_of(pod, &request.container)?;
                refuse_completed(pod, "attach")?;
                require_running(pod, &container)?;
                Purpose::Attach(AttachRequest { container, pod_uid: uid, ..request })
            }
            Self::PortForward(request) | Self::Forwards(request) => {
                let phase = pod["status"]["phase"].as_str().unwrap_or_default();
                if phase != "Running" {
                    let message = format!("unable to forward port because pod is not running. Current status={phase}");
                    return Err(ApiError::bad_request(message));
                }
                Purpose::PortForward(PortForwardRequest { pod_uid: uid, ..request })
            }
        })
    }
}

fn refuse_completed(pod: &Value, what: &str) -> Result<(), ApiError> {
    match pod["status"]["phase"].as_str() {
        Some(phase @ ("Succeeded" | "Failed")) => Err(ApiError::bad_request(format!(
            "cannot {what} a container in a completed pod; current phase is {phase}"
        ))),
        _ => Ok(()),
    }
}

fn require_running(pod: &Value, container: &str) -> Result<(), ApiError> {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut statuses = lists.into_iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    let state = statuses.find(|status| status["name"] == container).map_or(&Value::Null, |status| &status["state"]);
    if state["running"].is_object() {
        return Ok(());
    }
    let why = match state["waiting"]["reason"].as_str() {
        _ if state["terminated"].is_object() => "it has ended".to_owned(),
        Some(reason) => format!("it is waiting to start: {reason}"),
        None => "it has not started".to_owned(),
    };
    let message = format!("unable to upgrade connection: container not found (\"{container}\"): {why}");
    Err(ApiError::bad_request(message))
}

/// Where a session with a pod goes, and what is asked for there: everything about it is checked.
#[derive(Debug)]
pub(crate) struct Placed {
    /// The pod's node.
    pub(crate) node: String,
    /// With the pod's uid and the container's name.
    pub(crate) purpose: Purpose,
}

/// Checks what a user wants. `verb` is `create`, or `get` for an upgraded GET.
///
/// # Errors
/// 400 for impossible options, a container that the pod has not or that does not run, and a pod without a node; 403;
/// 404.
pub(crate) async fn place(door: &Door, identity: &Identity, verb: &str, wanted: Wanted) -> Result<Placed, ApiError> {
    let pods: &'static Kind = catalogue::pods();
    let (namespace, name) = wanted.place();
    let target = Target { subresource: wanted.subresource(), ..Target::object(pods, namespace, name) };
    door.barrier().await?;
    let entry = door.store().get(&target.key()).map_err(|error| read_error(&error))?;
    let pod = entry.map(|entry| encode::decode(&entry.value)).transpose()?;
    door.authorize(identity, verb, &target, Asked { object: pod.as_ref(), ..Asked::default() })?;
    wanted.check()?;
    let pod = pod.ok_or_else(|| pods.not_found(&target.name))?;
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    let node =
        node.ok_or_else(|| ApiError::bad_request(format!("pod {} does not have a host assigned", target.name)))?;
    Ok(Placed { node: node.to_owned(), purpose: wanted.purpose(&pod)? })
}

/// Opens a session with the pod's node; as [`place`].
///
/// # Errors
/// As there; 429 when the node serves as many sessions as it may; 503 when it cannot be reached.
pub(crate) async fn open(door: &Door, identity: &Identity, verb: &str, wanted: Wanted) -> Result<Session, ApiError> {
    let Placed { node, purpose } = place(door, identity, verb, wanted).await?;
    door.node_links()?.open_session(&node, purpose).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{nodelink::NodeLinks, testing};
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    fn exec(command: &[&str]) -> ExecRequest {
        ExecRequest {
            namespace: "default".to_owned(),
            pod: "p".to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            stdout: true,
            ..ExecRequest::default()
        }
    }

    #[test]
    fn impossible_options_are_refused() {
        let none = ExecRequest { stdout: false, ..exec(&["a"]) };
        let both = ExecRequest { tty: true, stderr: true, ..exec(&["a"]) };
        let port = |port| Wanted::PortForward(PortForwardRequest { port, ..PortForwardRequest::default() });
        let cases = [
            (Wanted::Exec(exec(&[])), Some("at least 1 command")),
            (Wanted::Exec(exec(&vec!["x"; 2000])), Some("at most 1024 words")),
            (Wanted::Exec(exec(&["x".repeat(70_000).as_str()])), Some("of 65536 bytes")),
            (Wanted::Exec(none), Some("at least 1 of stdin, stdout, stderr")),
            (Wanted::Exec(both), Some("tty and stderr")),
            (Wanted::Attach(AttachRequest::default()), Some("at least 1 of stdin")),
            (port(0), Some("port 0")),
            (port(65_536), Some("port 65536")),
            (Wanted::Exec(exec(&["a"])), None),
            (port(65_535), None),
        ];
        for (wanted, expected) in cases {
            let refused = wanted.check().err();
            match (expected, &refused) {
                (None, None) => {}
                (Some(text), Some(error)) => assert!(error.code() == 400 && error.message.contains(text), "{error}"),
                _ => panic!("{wanted:?}: {refused:?}"),
            }
        }
    }

    #[test]
    fn the_node_is_told_uid_and_container() {
        let pod = json!({
            "metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "main"}]},
            "status": {"containerStatuses": [{"name": "main", "state": {"running": {}}}]},
        });
        let Ok(Purpose::Exec(asked)) = Wanted::Exec(exec(&["a"])).purpose(&pod) else { panic!("no exec") };
        assert_eq!((asked.pod_uid.as_str(), asked.container.as_str()), ("u", "main"));
        let named = ExecRequest { container: "other".to_owned(), ..exec(&["a"]) };
        assert!(Wanted::Exec(named).purpose(&pod).unwrap_err().message.contains("container other is not valid"));
    }

    #[tokio::test]
    async fn only_who_may_gets_as_far_as_the_node() {
        let (door, _) = testing::door().await;
        door.set_node_links(NodeLinks::new(CancellationToken::new()));
        let ask = async |identity: &Identity, wanted: ExecRequest| {
            let error = open(&door, identity, "create", Wanted::Exec(wanted)).await.map(drop).unwrap_err();
            (error.code(), error.message)
        };
        let user = Identity::new("user", &[]);
        let (code, message) = ask(&user, exec(&["a"])).await;
        assert_eq!(code, 403);
        assert!(message.contains("cannot create resource \"pods/exec\""), "{message}");
        assert_eq!(ask(&Identity::node("one"), exec(&["a"])).await.0, 403, "a node serves sessions and asks for none");
        assert_eq!(ask(&Identity::admin(), exec(&["a"])).await.0, 404);
        let pods = Target::collection(catalogue::pods(), "default");
        testing::create(&door, &pods, testing::pod("p")).await.unwrap();
        let (code, message) = ask(&Identity::admin(), exec(&["a"])).await;
        assert_eq!((code, message.as_str()), (400, "pod p does not have a host assigned"));
    }

    #[tokio::test]
    async fn what_does_not_run_is_said_in_the_words_people_know() {
        let (door, _proposer) = testing::door().await;
        for (name, status) in [
            ("new", json!({"phase": "Pending"})),
            ("waiting", json!({"phase": "Pending", "state": {"waiting": {"reason": "ImagePullBackOff"}}})),
            ("ended", json!({"state": {"terminated": {"exitCode": 1}}})),
            ("runs", json!({"state": {"running": {}}})),
            ("completed", json!({"phase": "Succeeded"})),
        ] {
            testing::running_pod(&door, name, "one", &status).await;
        }
        let not = |why: &str| format!("unable to upgrade connection: container not found (\"main\"): {why}");
        let completed = "a container in a completed pod; current phase is Succeeded";
        for (name, text) in [
            ("new", not("it has not started")),
            ("waiting", not("it is waiting to start: ImagePullBackOff")),
            ("ended", not("it has ended")),
            ("completed", format!("cannot exec into {completed}")),
            ("runs", String::new()),
        ] {
            let wanted = Wanted::Exec(ExecRequest { pod: name.to_owned(), ..exec(&["a"]) });
            let refused = place(&door, &Identity::admin(), "get", wanted).await.err();
            assert_eq!(refused.map(|error| error.message).unwrap_or_default(), text, "{name}");
        }
        let pod = |name: &str| (name.to_owned(), "default".to_owned());
        let (pod_name, namespace) = pod("completed");
        let attach = AttachRequest { namespace, pod: pod_name, stdout: true, ..AttachRequest::default() };
        let refused = place(&door, &Identity::admin(), "create", Wanted::Attach(attach)).await.unwrap_err();
        assert_eq!(refused.message, format!("cannot attach {completed}"));
        for (name, text) in [
            ("completed", "unable to forward port because pod is not running. Current status=Succeeded"),
            ("new", "unable to forward port because pod is not running. Current status=Pending"),
            ("runs", ""),
        ] {
            let (pod, namespace) = pod(name);
            let wanted = Wanted::Forwards(PortForwardRequest { namespace, pod, ..PortForwardRequest::default() });
            let refused = place(&door, &Identity::admin(), "create", wanted).await.err();
            assert_eq!(refused.map(|error| error.message).unwrap_or_default(), text, "{name}");
        }
    }
}
