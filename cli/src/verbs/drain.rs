//! `coracle drain`: cordons nodes and asks their pods to go, one by one and with their grace.

use super::{
    ClusterArgs,
    cordon::{self, NodeArgs},
    duration,
    print::refusal,
};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_objects::{ObjectKey, Reason, catalogue, meta, selector::LabelSelector, static_pods};
use coracle_sdk::{
    Connection,
    connection::{CallError, ListOptions},
};
use serde_json::Value;
use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

/// Between two looks at a pod that is going, and before one that may not go now is asked again.
const GONE_PAUSE: Duration = Duration::from_millis(250);
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// Empty nodes: cordon them, and evict their pods.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Drain {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    nodes: NodeArgs,
    /// Pods that nothing will make anew go too
    #[arg(long)]
    force: bool,
    /// Pods of daemon sets, which come back at once, stay without an error
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Pods with emptyDir volumes go too, and what is in these with them
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Delete the pods instead of evicting them
    #[arg(long)]
    disable_eviction: bool,
    /// Seconds to end gracefully; negative: the pods' own
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    grace_period: i64,
    /// Label selector of the pods that go
    #[arg(long, default_value = "", hide_default_value = true, value_parser = selector)]
    pod_selector: String,
    /// Longest time to wait for each node, such as 30s or 1m30s; 0: for ever
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::patience, allow_hyphen_values = true)]
    timeout: u64,
}

/// Why a pod stays, or keeps the node from being drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Goes,
    Stays,
    Refused(&'static str),
}

impl Drain {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, _) = self.cluster.connect()?;
        for node in self.nodes.find(&connection).await? {
            cordon::set(&connection, &node, true).await?;
            let name = meta::name(&node);
            let emptied = self.empty(&connection, name);
            match self.timeout {
                0 => emptied.await?,
                seconds => tokio::time::timeout(Duration::from_secs(seconds), emptied)
                    .await
                    .with_context(|| format!("node/{name}: pods are still there after {seconds} s"))??,
            }
            writeln!(io::stdout(), "node/{name} drained")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn empty(&self, connection: &Connection, node: &str) -> Result<()> {
        let options = ListOptions {
            field_selector: format!("spec.nodeName={node}"),
            label_selector: self.pod_selector.clone(),
            ..ListOptions::default()
        };
        let (pods, _) = connection.list(catalogue::pods(), &options).await.map_err(refusal)?;
        let refused: Vec<String> = pods
            .iter()
            .filter_map(|pod| match self.verdict(pod) {
                Verdict::Refused(why) => Some(format!("{}: {why}", meta::key(pod))),
                Verdict::Goes | Verdict::Stays => None,
            })
            .collect();
        if !refused.is_empty() {
            bail!("node/{node} is cordoned, but not drained; {}", refused.join("; "));
        }
        let going: Vec<&Value> = pods.iter().filter(|pod| self.verdict(pod) == Verdict::Goes).collect();
        for pod in &going {
            self.send_away(connection, pod).await?;
        }
        for pod in going {
            gone(connection, pod).await?;
            writeln!(io::stdout(), "pod/{} evicted", meta::name(pod))?;
        }
        Ok(())
    }

    /// As kubectl judges.
    fn verdict(&self, pod: &Value) -> Verdict {
        let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let controller = owners.clone().find(|owner| owner["controller"] == true);
        let is_over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        if static_pods::is_mirror(pod) {
            Verdict::Stays
        } else if is_over {
            Verdict::Goes
        } else if controller.is_some_and(|owner| owner["kind"] == "DaemonSet") {
            let refused = Verdict::Refused("belongs to a daemon set (use --ignore-daemonsets)");
            if self.ignore_daemonsets { Verdict::Stays } else { refused }
        } else if controller.is_none() && !self.force {
            Verdict::Refused("nothing would make it anew (use --force)")
        } else if !self.delete_emptydir_data && volumes.any(|volume| volume["emptyDir"].is_object()) {
            Verdict::Refused("has emptyDir volumes, whose content would be lost (use --delete-emptydir-data)")
        } else {
            Verdict::Goes
        }
    }

    async fn send_away(&self, connection: &Connection, pod: &Value) -> Result<()> {
        let (key, grace) = (meta::key(pod), (self.grace_period >= 0).then_some(self.grace_period));
        writeln!(io::stdout(), "evicting pod {key}")?;
        loop {
            let asked = if self.disable_eviction {
                connection.delete(catalogue::pods(), &key, grace).await
            } else {
                connection.evict(&key, meta::uid(pod), grace).await
            };
            match asked {
                Ok(_) => return Ok(()),
                // It has gone by itself; another of its name is not meant.
                Err(CallError::Refused(error)) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => {
                    return Ok(());
                }
                Err(CallError::Refused(error)) if error.reason == Reason::TooManyRequests => {
                    writeln!(io::stderr(), "pod/{} may not go now: {}", key.name, error.message)?;
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                Err(error) => return Err(refusal(error)),
            }
        }
    }
}

/// A label selector, judged before anything is cordoned.
fn selector(text: &str) -> Result<String, String> {
    LabelSelector::parse(text).map(|_| text.to_owned()).map_err(|error| error.message)
}

/// Waits until the pod is gone or another one has its name.
async fn gone(connection: &Connection, pod: &Value) -> Result<()> {
    let key: ObjectKey = meta::key(pod);
    loop {
        match connection.get(catalogue::pods(), &key).await {
            Ok(current) if meta::uid(&current) == meta::uid(pod) => {}
            Ok(_) => return Ok(()),
            Err(CallError::Refused(error)) if error.reason == Reason::NotFound => return Ok(()),
            Err(error) => return Err(refusal(error)),
        }
        tokio::time::sleep(GONE_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        drain: Drain,
    }

    #[test]
    fn what_is_no_selector_and_no_duration_is_told_before_anything_is_done() {
        let table: [(&[&str], Result<u64, &str>); 6] = [
            (&["--timeout", "10s", "--pod-selector", "app in (a,b),!c"], Ok(10)),
            (&["--timeout=1m"], Ok(60)),
            (&[], Ok(0)),
            (&["--timeout", "-10s"], Err("is no duration")),
            (&["--timeout", "soon"], Err("is no duration")),
            (&["--pod-selector", "a=b=c"], Err("unable to parse requirement")),
        ];
        for (words, expected) in table {
            let read = Line::try_parse_from([&["x", "node"], words].concat()).map(|line| line.drain.timeout);
            match (read, expected) {
                (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{words:?}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error} lacks {part:?}"),
                (read, expected) => panic!("{words:?}: {read:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn what_may_be_lost_is_asked_for() {
        let owned = |kind: &str| json!([{"kind": kind, "name": "x", "controller": true}]);
        let plain = json!({});
        let set = json!({"metadata": {"ownerReferences": owned("ReplicaSet")}});
        let daemon = json!({"metadata": {"ownerReferences": owned("DaemonSet")}});
        let mut scratch = set.clone();
        scratch["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        let over = json!({"status": {"phase": "Succeeded"}});
        let mirror = json!({"metadata": {"annotations": {static_pods::MIRROR_ANNOTATION: "x"}}});
        let all = ["--force", "--ignore-daemonsets", "--delete-emptydir-data"];
        let table = [
            (&plain, "refused", Verdict::Goes),
            (&set, "goes", Verdict::Goes),
            (&daemon, "refused", Verdict::Stays),
            (&scratch, "refused", Verdict::Goes),
            (&over, "goes", Verdict::Goes),
            (&mirror, "stays", Verdict::Stays),
        ];
        let read = |more: &[&str]| Line::try_parse_from([&["x", "node"], more].concat()).ok().map(|line| line.drain);
        let (plainly, with_all) = (read(&[]).unwrap(), read(&all).unwrap());
        for (pod, without, with) in table {
            let shown = match plainly.verdict(pod) {
                Verdict::Goes => "goes",
                Verdict::Stays => "stays",
                Verdict::Refused(_) => "refused",
            };
            assert_eq!((shown, with_all.verdict(pod)), (without, with), "{pod}");
        }
    }
}
