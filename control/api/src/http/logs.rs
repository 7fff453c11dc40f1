//! `pods/log`: which container, whether it has a log yet, and then what its node sends.

use super::{answer, query::Query};
use crate::{
    door::{Door, Target, encode, gate::Asked, read_error, stamp},
    identity::Identity,
};
use axum::{body::Body, response::Response};
use coracle_objects::{ApiError, Cause, meta};
use coracle_wire::v1::LogRequest;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

/// The log of one container as plain text.
///
/// # Errors
/// 400 when there is no such container or it has not started, 403, 404, 422 for impossible options, 503 when the
/// node cannot be reached.
pub(super) async fn answer(
    door: &Door,
    identity: &Identity,
    target: &Target,
    query: &Query,
) -> Result<Response, ApiError> {
    let log = open(door, identity, target, request_from(query)?).await?;
    Ok(answer::typed("text/plain; charset=utf-8", Body::from_stream(log)))
}

/// A container's log, as bytes that end with the log, with the server, or with an error.
pub(crate) async fn open(
    door: &Door,
    identity: &Identity,
    target: &Target,
    mut request: LogRequest,
) -> Result<impl futures::Stream<Item = Result<bytes::Bytes, ApiError>> + Send + 'static + use<>, ApiError> {
    door.barrier().await?;
    let entry = door.store().get(&target.key()).map_err(|error| read_error(&error))?;
    let pod = entry.map(|entry| encode::decode(&entry.value)).transpose()?;
    door.authorize(identity, "get", target, Asked { object: pod.as_ref(), ..Asked::default() })?;
    let pod = pod.ok_or_else(|| target.kind.not_found(&target.name))?;
    let container = container_of(&pod, &request.container)?;
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    let node =
        node.ok_or_else(|| ApiError::bad_request(format!("pod {} does not have a host assigned", target.name)))?;
    check_started(&pod, &container, request.previous)?;
    request.namespace.clone_from(&target.namespace);
    request.pod.clone_from(&target.name);
    request.container = container;
    meta::uid(&pod).clone_into(&mut request.pod_uid);
    let log = door.log_reader()?.open(node, request).await?;
    let closing = door.closing().clone().cancelled_owned();
    Ok(log.inspect_err(|error| tracing::debug!(%error, "a log stream ended early")).take_until(closing))
}

fn request_from(query: &Query) -> Result<LogRequest, ApiError> {
    let request = LogRequest {
        container: query.text("container").to_owned(),
        follow: query.flag("follow")?,
        previous: query.flag("previous")?,
        timestamps: query.flag("timestamps")?,
        tail_lines: query.number("tailLines")?,
        since_seconds: query.number("sinceSeconds")?,
        since_time: query.text("sinceTime").to_owned(),
        limit_bytes: query.number("limitBytes")?,
        ..LogRequest::default()
    };
    check_request(&request)?;
    Ok(request)
}

/// The rules of `PodLogOptions`.
pub(crate) fn check_request(request: &LogRequest) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    let mut at_least = |field: &str, value: Option<i64>, least: i64| {
        if let Some(value) = value.filter(|value| *value < least) {
            let detail = format!("must be greater than or equal to {least}");
            causes.push(Cause::invalid(field, &Value::from(value), &detail));
        }
    };
    at_least("tailLines", request.tail_lines, 0);
    at_least("limitBytes", request.limit_bytes, 1);
    at_least("sinceSeconds", request.since_seconds, 1);
    if !request.since_time.is_empty() {
        if request.since_seconds.is_some() {
            causes.push(Cause::forbidden(
                "sinceSeconds",
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ));
        }
        if stamp::parse_timestamp(&request.since_time).is_none() {
            causes.push(Cause::invalid(
                "sinceTime",
                &Value::from(request.since_time.as_str()),
                "must be an RFC 3339 time",
            ));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "PodLogOptions", "", causes)) }
}

fn names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    let containers = pod["spec"][list].as_array().into_iter().flatten();
    containers.filter_map(|container| container["name"].as_str()).collect()
}

/// The container meant: the one named, or the only one.
pub(crate) fn container_of(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let (name, containers, init) = (meta::name(pod), names(pod, "containers"), names(pod, "initContainers"));
    if !asked.is_empty() {
        if containers.contains(&asked) || init.contains(&asked) {
            return Ok(asked.to_owned());
        }
        return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    if let [only] = containers.as_slice() {
        return Ok((*only).to_owned());
    }
    let mut message = format!("a container name must be specified for pod {name}");
    if !containers.is_empty() {
        message += ", choose one of: [";
        message += &containers.join(" ");
        message += "]";
    }
    if !init.is_empty() {
        message += " or one of the init containers: [";
        message += &init.join(" ");
        message += "]";
    }
    Err(ApiError::bad_request(message))
}

/// Refuses, in kubelet's words, when the container has not written anything yet.
fn check_started(pod: &Value, container: &str, previous: bool) -> Result<(), ApiError> {
    let status = ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .find(|status| status["name"] == container);
    let pod_name = meta::name(pod);
    let named = format!("container \"{container}\" in pod \"{pod_name}\"");
    let refuse = |text: String| Err(ApiError::bad_request(text));
    let Some(status) = status else { return refuse(format!("{named} is not available")) };
    let (state, last) = (&status["state"], &status["lastState"]);
    if previous {
        if last["terminated"].is_object() {
            return Ok(());
        }
        return refuse(format!("previous terminated {named} not found"));
    }
    if state["running"].is_object() || state["terminated"].is_object() || last["terminated"].is_object() {
        return Ok(());
    }
    match state["waiting"]["reason"].as_str().unwrap_or_default() {
        "" => refuse(format!("{named} is waiting to start - no logs yet")),
        "ErrImagePull" => refuse(format!("{named} is waiting to start: image can't be pulled")),
        "ImagePullBackOff" => refuse(format!("{named} is waiting to start: trying and failing to pull image")),
        reason => refuse(format!("{named} is waiting to start: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "c"}, {"name": "d"}]},
        })
    }

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let mut single = pod();
        single["spec"]["containers"] = json!([{"name": "a"}]);
        assert_eq!(container_of(&single, "").unwrap(), "a");
        assert_eq!(container_of(&pod(), "d").unwrap(), "d");
        let cases = [
            (
                "",
                "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [c d]",
            ),
            ("x", "container x is not valid for pod p"),
        ];
        for (asked, text) in cases {
            let error = container_of(&pod(), asked).unwrap_err();
            assert_eq!((error.code(), error.message.as_str()), (400, text));
        }
    }

    #[test]
    fn a_container_that_has_not_started_has_no_log() {
        let ended = json!({"exitCode": 1});
        let cases = [
            (json!({"state": {"running": {}}}), false, None),
            (json!({"state": {"terminated": ended}}), false, None),
            (
                json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}}),
                false,
                None,
            ),
            (json!({"state": {"running": {}}, "lastState": {"terminated": ended}}), true, None),
            (
                json!({"state": {"running": {}}}),
                true,
                Some("previous terminated container \"a\" in pod \"p\" not found"),
            ),
            (
                json!({"state": {"waiting": {"reason": "PodInitializing"}}}),
                false,
                Some("container \"a\" in pod \"p\" is waiting to start: PodInitializing"),
            ),
            (
                json!({"state": {"waiting": {"reason": "ErrImagePull"}}}),
                false,
                Some("container \"a\" in pod \"p\" is waiting to start: image can't be pulled"),
            ),
            (json!({"state": {}}), false, Some("container \"a\" in pod \"p\" is waiting to start - no logs yet")),
            (json!(null), false, Some("container \"a\" in pod \"p\" is not available")),
        ];
        for (mut status, previous, expected) in cases {
            let mut pod = pod();
            if status.is_object() {
                status["name"] = Value::from("a");
                pod["status"] = json!({"containerStatuses": [status]});
            }
            let refused = check_started(&pod, "a", previous).err().map(|error| error.message);
            assert_eq!(refused.as_deref(), expected, "{pod} {previous}");
        }
    }

    #[test]
    fn impossible_options_are_refused() {
        let ask = |text: &str| request_from(&Query::parse(&format!("/x?{text}").parse().unwrap()).unwrap());
        let good = ask("tailLines=0&follow=true&sinceTime=2026-01-01T00:00:00Z&limitBytes=1").unwrap();
        assert_eq!((good.tail_lines, good.follow, good.limit_bytes), (Some(0), true, Some(1)));
        for bad in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceTime=now",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
        ] {
            assert_eq!(ask(bad).unwrap_err().code(), 422, "{bad}");
        }
    }
}
