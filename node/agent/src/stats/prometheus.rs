//! A look at the node in Prometheus' text form, under the names that kubelet's resource metrics have.

use super::{summary::Snapshot, usage::PodUse};
use coracle_objects::meta;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use std::{fmt, sync::Arc};

const NANOS: f64 = 1e9;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ContainerLabels {
    namespace: String,
    pod: String,
    container: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodLabels {
    namespace: String,
    pod: String,
}

/// The text, as `OpenMetrics`.
///
/// # Errors
/// When it cannot be written, which a string never says.
pub(crate) fn text(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Shown(Arc::new(snapshot))));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Shown(Arc<Snapshot>);

#[expect(clippy::cast_precision_loss, reason = "a measurement needs no more than 53 bits")]
fn number(count: u64) -> f64 {
    count as f64
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Snapshot { machine, pods, .. } = &*self.0;
        let used = machine.memory_bytes.saturating_sub(machine.memory_available_bytes);
        let cpu = ConstCounter::new(number(machine.cpu_nanos) / NANOS);
        let help = "CPU time that the machine has used";
        cpu.encode(encoder.encode_descriptor("node_cpu_usage", help, Some(&Unit::Seconds), cpu.metric_type())?)?;
        let memory = ConstGauge::new(number(used));
        let help = "Memory of the machine that is not available";
        let name = "node_memory_working_set";
        memory.encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), memory.metric_type())?)?;
        containers(pods, &mut encoder)?;
        of_pods(pods, &mut encoder)
    }
}

/// One family: a counter or a gauge for each of `rows`.
fn family<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    is_counter: bool,
    rows: impl Iterator<Item = (L, f64)>,
) -> fmt::Result {
    let kind = if is_counter { ConstCounter::new(0.0).metric_type() } else { ConstGauge::new(0.0).metric_type() };
    let mut family = encoder.encode_descriptor(name, help, unit, kind)?;
    for (labels, value) in rows {
        let one = family.encode_family(&labels)?;
        if is_counter { ConstCounter::new(value).encode(one)? } else { ConstGauge::new(value).encode(one)? }
    }
    Ok(())
}

fn containers(pods: &[PodUse], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let rows = || {
        pods.iter().flat_map(|used| {
            used.containers.iter().map(|container| {
                let labels = ContainerLabels {
                    namespace: meta::namespace(&used.pod).to_owned(),
                    pod: meta::name(&used.pod).to_owned(),
                    container: container.name.clone(),
                };
                (labels, container)
            })
        })
    };
    let about = ("container_cpu_usage", "CPU time that a container has used", Some(&Unit::Seconds));
    family(encoder, about, true, rows().map(|(labels, one)| (labels, number(one.cpu_nanos) / NANOS)))?;
    let about = ("container_memory_working_set", "What counts against a container's memory limit", Some(&Unit::Bytes));
    family(encoder, about, false, rows().map(|(labels, one)| (labels, number(one.memory_bytes))))?;
    let about = ("container_start_time", "When a container was started, since 1970", Some(&Unit::Seconds));
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 need 31 bits")]
    let started = rows().filter_map(|(labels, one)| Some((labels, one.started_at?.unix_timestamp() as f64)));
    family(encoder, about, false, started)?;
    let about = ("container_restarts", "How often a container was started again", None);
    family(encoder, about, true, rows().map(|(labels, one)| (labels, number(one.restarts))))?;
    let about = ("container_logs_usage", "Logs of a container on the node's disk", Some(&Unit::Bytes));
    family(encoder, about, false, rows().map(|(labels, one)| (labels, number(one.logs_bytes))))
}

fn of_pods(pods: &[PodUse], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let rows = || {
        pods.iter().filter(|used| !used.containers.is_empty()).map(|used| {
            let labels =
                PodLabels { namespace: meta::namespace(&used.pod).to_owned(), pod: meta::name(&used.pod).to_owned() };
            (labels, used)
        })
    };
    let about = ("pod_cpu_usage", "CPU time that the running containers of a pod have used", Some(&Unit::Seconds));
    family(encoder, about, true, rows().map(|(labels, used)| (labels, number(used.cpu().0) / NANOS)))?;
    let about = ("pod_memory_working_set", "What counts against the memory limits of a pod", Some(&Unit::Bytes));
    family(encoder, about, false, rows().map(|(labels, used)| (labels, number(used.memory_bytes()))))?;
    let about = ("pod_network_receive", "Bytes that a pod has received", Some(&Unit::Bytes));
    family(encoder, about, true, rows().map(|(labels, used)| (labels, number(used.network.received_bytes))))?;
    let about = ("pod_network_transmit", "Bytes that a pod has sent", Some(&Unit::Bytes));
    family(encoder, about, true, rows().map(|(labels, used)| (labels, number(used.network.sent_bytes))))?;
    let about = ("pod_ephemeral_storage_usage", "What a pod has on the node's disk", Some(&Unit::Bytes));
    family(encoder, about, false, rows().map(|(labels, used)| (labels, number(used.storage_bytes()))))
}

#[cfg(test)]
mod tests {
    use super::{super::summary::tests::snapshot, *};

    #[test]
    fn the_text_has_a_line_for_each_measurement() {
        let text = text(snapshot()).unwrap();
        let labels = r#"namespace="default",pod="web""#;
        for line in [
            "# TYPE node_cpu_usage_seconds counter".to_owned(),
            "node_cpu_usage_seconds_total 9.0".to_owned(),
            "node_memory_working_set_bytes 40.0".to_owned(),
            format!(r#"container_cpu_usage_seconds_total{{{labels},container="main"}} 1.5"#),
            format!(r#"container_memory_working_set_bytes{{{labels},container="main"}} 3145728.0"#),
            format!(r#"container_restarts_total{{{labels},container="main"}} 2.0"#),
            format!("pod_network_transmit_bytes_total{{{labels}}} 20.0"),
            format!("pod_ephemeral_storage_usage_bytes{{{labels}}} 12.0"),
        ] {
            assert!(text.lines().any(|written| written == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
