//! How a node gets, compiles and holds workloads: the options that every way to run a node has.

use crate::absolute;
use anyhow::{Result, bail};
use clap::Args;
use coracle_agent::{AgentConfig, ImageLimits, Reserved, Size, Thresholds};
use coracle_runner::compile::CompileLimits;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How a node gets and compiles workloads.
#[derive(Debug, Args)]
pub struct WorkloadOptions {
    /// File that says how other registries are reached [default: registries.json in the node's directory]
    #[arg(long, value_name = "FILE")]
    registries: Option<PathBuf>,
    /// Memory that compiling one module may take [default: half of the machine's, from 1 to 8 GiB]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    compile_memory: Option<u64>,
    /// Processor time that compiling one module may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    compile_time: u64,
    /// Run guests although the kernel lacks what holds them in (Landlock, seccomp)
    #[arg(long)]
    allow_unconfined_guests: bool,
    /// Directory whose files describe pods that run on this node, with or without a server [default: static-pods in the node's directory]
    #[arg(long, value_name = "DIR")]
    static_pods: Option<PathBuf>,
    /// Pods that the node takes at most; its range of addresses is made for as many when it registers first [default: one for every 2
    /// MiB of memory, from 16 to 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32_765))]
    max_pods: Option<u32>,
    /// Instances that each runner process has room for; a namespace with more has several
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    runner_instances: Option<u32>,
    /// Memory of the machine that guests are held to [default: what it has]
    #[arg(long, hide = true, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    guests_machine_memory: Option<u64>,
    /// What of the machine is not for pods, e.g. cpu=500m,memory=256Mi
    #[arg(long, value_name = "RESOURCES", value_parser = Reserved::parse, default_value = "", hide_default_value = true)]
    system_reserved: Reserved,
    /// What has to be left, or pods are evicted [default: memory.available<100Mi, at most 5 % of it; of disk, inodes and process ids 5 %]
    #[arg(long, value_name = "SIGNALS", value_parser = Thresholds::parse, default_value = "", hide_default_value = true)]
    eviction_hard: Thresholds,
    /// Part of the disk in use from which on images that nothing uses are removed; 100: only when the disk is short
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_high_threshold: u8,
    /// Part of the disk in use down to which they are removed
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low_threshold: u8,
    /// When the node ends, pods get their own grace and no more than this [default: 60; of a node in `dev`: 5]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    shutdown_grace: Option<u64>,
    /// How long an image that nothing uses stays in any case
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    image_minimum_age: u64,
    /// How often the node says that it lives [default: 10]; a server that gives nodes up early wants it often
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=30))]
    heartbeat_interval: Option<u64>,
}

impl WorkloadOptions {
    /// What pods get at most when the node ends, where it was given.
    #[must_use]
    pub fn shutdown_grace(&self) -> Option<Duration> {
        self.shutdown_grace.map(Duration::from_secs)
    }

    /// Judges these options of the node that keeps everything in `data_dir`.
    ///
    /// # Errors
    /// When two of them contradict each other, or the description of registries cannot be used.
    pub fn check(&self, data_dir: &Path) -> Result<()> {
        let (high, low) = (self.image_gc_high_threshold, self.image_gc_low_threshold);
        if low >= high {
            bail!("--image-gc-low-threshold {low} must be below --image-gc-high-threshold {high}");
        }
        Ok(coracle_agent::check_registries(self.registries.as_deref(), data_dir)?)
    }

    /// The configuration with these options.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn apply(self, config: AgentConfig) -> Result<AgentConfig> {
        self.check(&config.data_dir)?;
        let (usual, size) = (config.compile_limits, Size::of_this_machine());
        let memory_bytes = self.compile_memory.map_or(usual.memory_bytes, |mib| mib << 20);
        let compile_limits = CompileLimits {
            user: None,
            memory_bytes,
            own_bytes: memory_bytes.min(size.compiler_bytes),
            cpu_seconds: self.compile_time,
        };
        let (high_percent, low_percent) = (self.image_gc_high_threshold, self.image_gc_low_threshold);
        let unused_for = Duration::from_secs(self.image_minimum_age);
        let registries = self.registries.as_deref().map(absolute).transpose()?;
        let static_pods = self.static_pods.as_deref().map(absolute).transpose()?;
        Ok(AgentConfig {
            registries,
            compile_limits,
            static_pods,
            pods_max: self.max_pods.unwrap_or(size.pods_max),
            runner_instances: self.runner_instances.unwrap_or(size.runner_instances),
            allow_unconfined_guests: self.allow_unconfined_guests,
            reserved: self.system_reserved,
            memory_bytes: self.guests_machine_memory.map(|mib| mib << 20),
            thresholds: self.eviction_hard,
            shutdown_grace: self.shutdown_grace().unwrap_or(config.shutdown_grace),
            image_limits: ImageLimits { high_percent, low_percent, unused_for },
            heartbeat_interval: self.heartbeat_interval.map_or(config.heartbeat_interval, Duration::from_secs),
            ..config
        })
    }
}
