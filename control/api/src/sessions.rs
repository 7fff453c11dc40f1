//! Commands in containers, attaching to them, connections to pods: who may, which container is meant, and then a
//! session with the pod's node. HTTP and gRPC share it; nothing here changes an object.

use crate::{
    door::{Door, Target, encode, gate::Asked, read_error},
    http::logs::container_of,
    identity::Identity,
    nodelink::Session,
};
use coracle_objects::{ApiError, Kind, catalogue, meta};
use coracle_wire::v1::{AttachRequest, ExecRequest, PortForwardRequest, open_session::Purpose};
use serde_json::Value;

/// What a user asks a node for. The server fills in the pod's uid and, where none is named, the container.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// Run a command beside a container.
    Exec(ExecRequest),
    /// See what a container writes, and write to it.
    Attach(AttachRequest),
    /// One connection to a port of a pod.
    PortForward(PortForwardRequest),
}

impl Wanted {
    /// The subresource whose rights it takes.
    fn subresource(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }

    fn place(&self) -> (&str, &str) {
        match self {
            Self::Exec(ExecRequest { namespace, pod, .. })
            | Self::Attach(AttachRequest { namespace, pod, .. })
            | Self::PortForward(PortForwardRequest { namespace, pod, .. }) => (namespace, pod),
        }
    }

    /// The rules of `PodExecOptions`, `PodAttachOptions` and `PodPortForwardOptions`.
    fn check(&self) -> Result<(), ApiError> {
        let (stdin, stdout, stderr, tty) = match self {
            Self::Exec(exec) => {
                if exec.command.is_empty() {
                    return Err(ApiError::bad_request("you must specify at least 1 command for the container"));
                }
                (exec.stdin, exec.stdout, exec.stderr, exec.tty)
            }
            Self::Attach(attach) => (attach.stdin, attach.stdout, attach.stderr, attach.tty),
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
                Purpose::Exec(ExecRequest { container, pod_uid: uid, ..request })
            }
            Self::Attach(request) => {
                let container = container_of(pod, &request.container)?;
                Purpose::Attach(AttachRequest { container, pod_uid: uid, ..request })
            }
            Self::PortForward(request) => Purpose::PortForward(PortForwardRequest { pod_uid: uid, ..request }),
        })
    }
}

/// Opens a session with the pod's node. `verb` is `create`, or `get` for an upgraded GET.
///
/// # Errors
/// 400 for impossible options, a container that the pod has not, and a pod without a node; 403; 404; 429 when the node
/// serves as many sessions as it may; 503 when it cannot be reached.
pub(crate) async fn open(door: &Door, identity: &Identity, verb: &str, wanted: Wanted) -> Result<Session, ApiError> {
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
    door.node_links()?.open_session(node, wanted.purpose(&pod)?).await
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
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "main"}]}});
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
}
