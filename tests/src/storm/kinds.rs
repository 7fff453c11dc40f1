//! What the pods of a storm do, and how one looks that has arrived where it must.

use crate::{
    pods::{self, container},
    random::Random,
};
use serde_json::{Value, json};

/// How much processor time a spinning pod gets: many of them must leave room for everything else.
const SPIN_CPU: &str = "5m";
/// What a greedy pod may have, and what it takes.
const GREEDY_LIMIT: &str = "16Mi";
const GREEDY_MIB: &str = "64";
/// Exit code of a container that was killed.
const KILLED: i64 = 137;

/// What a pod does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs for ever, doing nothing.
    Steady,
    /// Ends well; is run again until it has.
    Job,
    /// Fails, and stays so.
    Failing,
    /// Fails again and again.
    Crashing,
    /// Computes for ever within a limit.
    Spinning,
    /// Takes more memory than it may.
    Greedy,
    /// Writes into its volume, then runs for ever.
    Writing,
    /// Runs for ever and is asked every other second whether it is ready.
    Probed,
}

impl Kind {
    /// One of them; those that cost processor time are rarer.
    pub fn any(random: &mut Random) -> Self {
        match random.below(16) {
            0..=2 => Self::Steady,
            3..=5 => Self::Job,
            6..=7 => Self::Failing,
            8..=9 => Self::Crashing,
            10 => Self::Spinning,
            11..=12 => Self::Greedy,
            13..=14 => Self::Writing,
            _ => Self::Probed,
        }
    }

    /// A pod of this kind, of an image that holds the toolbox.
    pub fn pod(self, namespace: &str, name: &str, image: &str) -> Value {
        let (policy, arguments): (_, &[&str]) = match self {
            Self::Steady | Self::Probed => ("Always", &["wait-eof"]),
            Self::Job => ("OnFailure", &["exit", "0"]),
            Self::Failing => ("Never", &["fail"]),
            Self::Crashing => ("Always", &["exit", "1"]),
            Self::Spinning => ("Always", &["spin"]),
            Self::Greedy => ("Never", &["alloc", GREEDY_MIB]),
            Self::Writing => ("Always", &["write", "/scratch/file", "text", "--", "wait-eof"]),
        };
        let mut container = json!({"image": image, "args": arguments});
        match self {
            Self::Spinning => container["resources"] = json!({"limits": {"cpu": SPIN_CPU}}),
            Self::Greedy => container["resources"] = json!({"limits": {"memory": GREEDY_LIMIT}}),
            Self::Writing => container["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]),
            Self::Probed => {
                container["readinessProbe"] =
                    json!({"exec": {"command": ["toolbox", "echo", "ready"]}, "periodSeconds": 2, "timeoutSeconds": 5});
            }
            Self::Steady | Self::Job | Self::Failing | Self::Crashing => {}
        }
        let mut pod = pods::pod(name, policy, &container);
        pod["metadata"]["namespace"] = namespace.into();
        if self == Self::Writing {
            pod["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
        }
        pod
    }

    /// Whether a pod of this kind is where it must get to, whatever was killed on its way.
    pub fn is_settled(self, pod: &Value) -> bool {
        let (phase, state) = (&pod["status"]["phase"], &container(pod)["state"]);
        match self {
            Self::Steady | Self::Spinning | Self::Writing => phase == "Running" && state["running"].is_object(),
            Self::Probed => state["running"].is_object() && container(pod)["ready"] == true,
            Self::Job => phase == "Succeeded",
            Self::Failing => {
                phase == "Failed" && state["terminated"]["exitCode"].as_i64().is_some_and(|code| code != 0)
            }
            Self::Greedy => phase == "Failed" && state["terminated"]["exitCode"] == KILLED,
            Self::Crashing => state["waiting"]["reason"] == "CrashLoopBackOff",
        }
    }
}
