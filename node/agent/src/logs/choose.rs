//! Which of a pod's logs is meant. Pure but for the look at which runs have one; refusals are in kubelet's words.

use crate::{
    clock,
    logs::{Logs, read::Wanted, runs},
    pod::spec,
};
use coracle_objects::{ApiError, meta};
use coracle_wire::v1;
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

/// Which run is meant, and what of it.
pub(crate) fn choose(logs: &Logs, pod: &Value, request: &v1::LogRequest) -> Result<(PathBuf, u32, Wanted), ApiError> {
    let name = container_name(pod, &request.container)?;
    let pod_name = meta::name(pod);
    let unusable = || ApiError::bad_request("the container's name is not usable");
    let directory = logs.container_directory(pod, name).ok_or_else(unusable)?;
    let runs = runs(&directory).map_err(|error| ApiError::internal(format!("cannot read the logs: {error}")))?;
    let newest = runs.last_key_value().map(|(run, _)| *run);
    let run = match (newest, request.previous) {
        (Some(newest), false) => newest,
        (Some(newest), true) if newest > 0 && runs.contains_key(&(newest - 1)) => newest - 1,
        (_, true) => {
            let text = format!("previous terminated container \"{name}\" in pod \"{pod_name}\" not found");
            return Err(ApiError::bad_request(text));
        }
        (None, false) => {
            let statuses = ["initContainerStatuses", "containerStatuses"].into_iter();
            let mut statuses = statuses.flat_map(|list| spec::items(&pod["status"], list));
            let status = statuses.find(|status| status["name"] == name);
            let reason = status.and_then(|status| status["state"]["waiting"]["reason"].as_str());
            let reason = reason.unwrap_or("ContainerCreating");
            let text = format!("container \"{name}\" in pod \"{pod_name}\" is waiting to start: {reason}");
            return Err(ApiError::bad_request(text));
        }
    };
    let live = logs.live(meta::uid(pod), name).filter(|live| live.run() == run);
    let since = match (request.since_seconds, clock::parse(&request.since_time)) {
        (Some(seconds), _) => Some(clock::now() - Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
        (None, since) => since,
    };
    let unsigned = |number: Option<i64>| number.map(|number| u64::try_from(number).unwrap_or(0));
    let wanted = Wanted {
        follow: live.map(|live| live.progress()),
        timestamps: request.timestamps,
        tail_lines: unsigned(request.tail_lines),
        since,
        limit_bytes: unsigned(request.limit_bytes),
    };
    Ok((directory, run, wanted))
}

/// The container that is asked for: the named one, or the default, or the only one.
fn container_name<'a>(pod: &'a Value, asked: &str) -> Result<&'a str, ApiError> {
    let asked = if asked.is_empty() {
        meta::annotation(pod, "kubectl.kubernetes.io/default-container").unwrap_or_default()
    } else {
        asked
    };
    let names = || spec::containers(pod).map(|container| spec::text(container, "name"));
    if asked.is_empty() {
        let apps = spec::app_containers(pod);
        if let ([only], []) = (apps, spec::init_containers(pod)) {
            return Ok(spec::text(only, "name"));
        }
        let all: Vec<&str> = names().collect();
        return Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            meta::name(pod),
            all.join(" "),
        )));
    }
    names()
        .find(|name| *name == asked)
        .ok_or_else(|| ApiError::bad_request(format!("container {asked} is not valid for pod {}", meta::name(pod))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_right_run_is_chosen() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path().to_owned()).unwrap();
        let pod = json!({
            "metadata": {"namespace": "default", "name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]},
            "status": {"containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "PodInitializing"}}}]},
        });
        let ask = |container: &str, previous| {
            let container = container.to_owned();
            let request = v1::LogRequest { container, previous, follow: true, ..v1::LogRequest::default() };
            choose(&logs, &pod, &request).map(|(_, run, wanted)| (run, wanted.follow.is_some()))
        };
        let message = |result: Result<(u32, bool), ApiError>| result.unwrap_err().message;
        assert_eq!(message(ask("", false)), "a container name must be specified for pod p, choose one of: [i a]");
        assert_eq!(message(ask("x", false)), "container x is not valid for pod p");
        assert_eq!(message(ask("a", false)), "container \"a\" in pod \"p\" is waiting to start: PodInitializing");
        assert_eq!(message(ask("a", true)), "previous terminated container \"a\" in pod \"p\" not found");
        logs.begin(&pod, "a", 0).unwrap();
        assert_eq!(ask("a", false), Ok((0, true)));
        assert!(ask("a", true).is_err());
        logs.begin(&pod, "a", 1).unwrap();
        assert_eq!(ask("a", false), Ok((1, true)));
        assert_eq!(ask("a", true), Ok((0, false)), "an old run is not followed");
    }
}
