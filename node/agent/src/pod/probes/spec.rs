//! The numbers of a probe, with Kubernetes' defaults for what an old object may lack.

use serde_json::Value;
use std::time::Duration;

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// Its field in a container.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Startup => "startupProbe",
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
        }
    }
}

/// When to probe and what to make of it. What the probe does stays in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) kind: Kind,
    /// It runs a command in the pod, which costs more than a connection.
    pub(super) is_command: bool,
    pub(super) initial_delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    pub(super) success_threshold: u32,
    pub(super) failure_threshold: u32,
    pub(super) grace: Option<Duration>,
}

impl Spec {
    /// A container's probe of this kind, if it has one.
    pub(super) fn of(container: &Value, kind: Kind) -> Option<Self> {
        let probe = container.get(kind.field()).filter(|probe| probe.is_object())?;
        let positive = |field: &str, default: u32| {
            let number = probe[field].as_u64().filter(|number| *number > 0);
            number.map_or(default, |number| u32::try_from(number).unwrap_or(u32::MAX))
        };
        let seconds = |number: u32| Duration::from_secs(number.into());
        Some(Self {
            kind,
            is_command: probe["exec"].is_object(),
            initial_delay: seconds(positive("initialDelaySeconds", 0)),
            period: seconds(positive("periodSeconds", 10)),
            timeout: seconds(positive("timeoutSeconds", 1)),
            success_threshold: positive("successThreshold", 1),
            failure_threshold: positive("failureThreshold", 3),
            grace: probe["terminationGracePeriodSeconds"].as_u64().map(Duration::from_secs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_have_kubernetes_defaults() {
        let container = json!({"livenessProbe": {"exec": {"command": ["x"]}, "timeoutSeconds": 0}});
        let spec = Spec::of(&container, Kind::Liveness).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!((spec.initial_delay, spec.period, spec.timeout), (seconds(0), seconds(10), seconds(1)));
        assert_eq!((spec.success_threshold, spec.failure_threshold, spec.grace), (1, 3, None));
        assert!(spec.is_command);
        assert_eq!(Spec::of(&container, Kind::Readiness), None);
    }
}
