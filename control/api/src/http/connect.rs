//! `pods/exec`, `pods/attach` and `pods/portforward`: parameters, checks, and the switch to another protocol.

use super::query::Query;
use crate::{
    door::{Door, Target, target::method_not_allowed},
    identity::Identity,
    sessions::{self, Directions, ForwardOpener, Placed, Upgrade, Wanted},
};
use axum::response::Response;
use coracle_objects::ApiError;
use coracle_wire::v1::{AttachRequest, ExecRequest, PortForwardRequest, open_session::Purpose};
use http::{Method, request::Parts};
use std::sync::Arc;

/// Most ports that one request may name.
const PORTS_MAX: usize = 32;

/// Answers with `101 Switching Protocols`, or says why not.
///
/// # Errors
/// 400 for what cannot be, 403, 404, 405, 429 when there are too many sessions, 503 when the node cannot be reached.
pub(super) async fn answer(
    door: &Door,
    identity: &Identity,
    target: &Target,
    query: &Query,
    parts: &Parts,
) -> Result<Response, ApiError> {
    let verb = match parts.method {
        Method::POST => "create",
        Method::GET => "get",
        _ => return Err(method_not_allowed()),
    };
    let (namespace, pod) = (target.namespace.clone(), target.name.clone());
    let tty = query.flag("tty")?;
    // A terminal has one output; kubelet, too, ignores the second.
    let stderr = query.flag("stderr")? && !tty;
    let directions = Directions { stdin: query.flag("stdin")?, stdout: query.flag("stdout")?, stderr, tty };
    let Directions { stdin, stdout, .. } = directions;
    let container = query.text("container").to_owned();
    let wanted = match target.subresource {
        "exec" => {
            let command = query.all("command").map(str::to_owned).collect();
            let pod_uid = String::new();
            Wanted::Exec(ExecRequest { namespace, pod, container, command, stdin, stdout, stderr, tty, pod_uid })
        }
        "attach" => {
            let pod_uid = String::new();
            Wanted::Attach(AttachRequest { namespace, pod, container, stdin, stdout, stderr, tty, pod_uid })
        }
        _ => Wanted::Forwards(PortForwardRequest { namespace, pod, ..PortForwardRequest::default() }),
    };
    let Placed { node, purpose } = sessions::place(door, identity, verb, wanted).await?;
    let upgrade = Upgrade::from_request(parts)?;
    let slot = door.session_slots().take(identity)?;
    let (links, closing) = (Arc::clone(door.node_links()?), door.closing().clone());
    if let Purpose::PortForward(request) = purpose {
        links.require_connected(&node)?;
        let agreed = upgrade.for_forward()?;
        let forwarded = ports(query)?;
        if agreed.needs_ports() && forwarded.is_empty() {
            return Err(ApiError::bad_request("query parameter \"ports\" is required"));
        }
        let opener = ForwardOpener { links, node, request };
        return Ok(sessions::serve_forward(agreed, opener, forwarded, slot, closing));
    }
    let agreed = upgrade.for_container()?;
    let session = links.open_session(&node, purpose).await?;
    Ok(sessions::serve_container(agreed, directions, session, slot, closing))
}

/// The ports that a client which has a channel for each must name: `ports=80&ports=81`, or `ports=80,81`.
fn ports(query: &Query) -> Result<Vec<u16>, ApiError> {
    let words = query.all("ports").flat_map(|words| words.split(',')).filter(|word| !word.is_empty());
    let ports: Vec<u16> = words
        .map(|word| {
            let port = word.parse().ok().filter(|port| *port > 0);
            port.ok_or_else(|| ApiError::bad_request(format!("ports: \"{word}\" is no port")))
        })
        .collect::<Result<_, _>>()?;
    if ports.len() > PORTS_MAX {
        return Err(ApiError::bad_request(format!("ports: at most {PORTS_MAX} can be forwarded by one request")));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_both_spellings() {
        let read = |text: &str| ports(&Query::parse(&format!("/x?{text}").parse().unwrap()).unwrap());
        assert_eq!(read("ports=80&ports=81,82").unwrap(), [80, 81, 82]);
        assert!(read("").unwrap().is_empty());
        for bad in ["ports=0", "ports=x", "ports=65536", "ports=80,-1"] {
            assert_eq!(read(bad).unwrap_err().code(), 400, "{bad}");
        }
        assert!(read(&"ports=1&".repeat(33)).is_err());
    }
}
