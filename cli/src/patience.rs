//! How patient the control plane is with its nodes: the options that `coracle server` and `coracle dev` share.

use clap::{Args, ValueEnum};
use coracle_server::Patience;
use std::time::Duration;

/// How often a node of the fast profile says that it lives.
const FAST_HEARTBEAT: Duration = Duration::from_secs(1);
/// Nodes per second; more is no rate any more.
const RATE_MAX: f64 = 1000.0;

/// The options.
#[derive(Debug, Args)]
pub(crate) struct PatienceOptions {
    /// How soon a node counts as lost and its pods go: after minutes, as in Kubernetes, or after seconds (nodes then need --heartbeat-interval 1; `dev` sees to that)
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    node_profile: Profile,
    /// How long a node may be silent [default: 40; fast: 5]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    node_monitor_grace_period: Option<u64>,
    /// How long a new node may be silent [default: 60; fast: 10]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    node_startup_grace_period: Option<u64>,
    /// Nodes per second and zone whose pods begin to go; 0: none [default: 0.1; fast: 1]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    node_eviction_rate: Option<f64>,
    /// The same where much of a large zone is not ready [default: 0.01; fast: 0.1]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    secondary_node_eviction_rate: Option<f64>,
    /// Nodes from which on a zone is large; where much of a smaller one is not ready, no pod goes [default: 50]
    #[arg(long, value_name = "N")]
    large_cluster_size_threshold: Option<u32>,
    /// Percent of a zone's nodes that are much of it [default: 55]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    unhealthy_zone_threshold: Option<u8>,
    /// How long pods that do not say it themselves stay on a node that says that it is not ready [default: 300; fast: 2]
    #[arg(long, value_name = "SECONDS")]
    default_not_ready_toleration_seconds: Option<u32>,
    /// How long they stay on one that nothing is heard of [default: 300; fast: 2]
    #[arg(long, value_name = "SECONDS")]
    default_unreachable_toleration_seconds: Option<u32>,
    /// How long pods stay after their Node was deleted [default: 40; fast: 5]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    gone_node_grace_period: Option<u64>,
}

/// Which times there are unless others are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// Kubernetes' times
    Default,
    /// Seconds
    Fast,
}

impl PatienceOptions {
    /// What they mean.
    pub(crate) fn patience(&self) -> Patience {
        let mut patience = match self.node_profile {
            Profile::Default => Patience::default(),
            Profile::Fast => Patience::fast(),
        };
        let set_time = |time: &mut Duration, seconds: Option<u64>| {
            if let Some(seconds) = seconds {
                *time = Duration::from_secs(seconds);
            }
        };
        let set_interval = |interval: &mut Option<Duration>, rate: Option<f64>| {
            if let Some(rate) = rate {
                *interval = (rate > 0.0).then(|| Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX));
            }
        };
        let nodes = &mut patience.controllers.nodes;
        set_time(&mut nodes.grace, self.node_monitor_grace_period);
        set_time(&mut nodes.startup_grace, self.node_startup_grace_period);
        set_interval(&mut nodes.eviction_interval, self.node_eviction_rate);
        set_interval(&mut nodes.secondary_eviction_interval, self.secondary_node_eviction_rate);
        if let Some(nodes_max) = self.large_cluster_size_threshold {
            nodes.large_zone_nodes = usize::try_from(nodes_max).unwrap_or(usize::MAX);
        }
        if let Some(percent) = self.unhealthy_zone_threshold {
            nodes.unhealthy_percent = usize::from(percent);
        }
        set_time(&mut patience.controllers.gone_node_grace, self.gone_node_grace_period);
        let tolerations = &mut patience.tolerations;
        let set = |seconds: &mut u32, wanted: Option<u32>| *seconds = wanted.unwrap_or(*seconds);
        set(&mut tolerations.not_ready_seconds, self.default_not_ready_toleration_seconds);
        set(&mut tolerations.unreachable_seconds, self.default_unreachable_toleration_seconds);
        patience
    }

    /// How often nodes that go by the same profile say that they live; `None`: as they do of themselves.
    pub(crate) fn heartbeat_interval(&self) -> Option<Duration> {
        (self.node_profile == Profile::Fast).then_some(FAST_HEARTBEAT)
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "must be a number of nodes per second, for example 0.1".to_owned())?;
    if (0.0..=RATE_MAX).contains(&rate) { Ok(rate) } else { Err(format!("must be between 0 and {RATE_MAX}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: PatienceOptions,
    }

    fn read(arguments: &[&str]) -> Option<PatienceOptions> {
        Some(Line::try_parse_from(["x"].iter().chain(arguments)).ok()?.options)
    }

    #[test]
    fn a_profile_is_where_single_options_begin() {
        assert_eq!(read(&[]).unwrap().patience(), Patience::default());
        let fast = read(&["--node-profile", "fast"]).unwrap();
        assert_eq!((fast.patience(), fast.heartbeat_interval()), (Patience::fast(), Some(FAST_HEARTBEAT)));
        let own = ["--node-profile", "fast", "--node-monitor-grace-period", "7", "--node-eviction-rate", "0.5"];
        let more = ["--secondary-node-eviction-rate", "0", "--default-unreachable-toleration-seconds", "9"];
        let patience = read(&[own.as_slice(), &more].concat()).unwrap().patience();
        let nodes = &patience.controllers.nodes;
        assert_eq!(nodes.grace, Duration::from_secs(7));
        assert_eq!((nodes.eviction_interval, nodes.secondary_eviction_interval), (Some(Duration::from_secs(2)), None));
        assert_eq!((patience.tolerations.not_ready_seconds, patience.tolerations.unreachable_seconds), (2, 9));
        for wrong in [["--node-eviction-rate", "-1"], ["--node-eviction-rate", "NaN"], ["--node-profile", "slow"]] {
            assert!(read(&wrong).is_none(), "{wrong:?}");
        }
    }
}
