//! Probes of containers: startup, liveness and readiness, each over HTTP, TCP, gRPC or a command, as a kubelet runs them.
//!
//! ```text
//!  start ──▶ one task per run ── due ──▶ turn ──▶ probe (http, tcp, grpc, command) ──▶ schedule ── changed ──▶ Verdict
//!                    ▲                   bounded, fair among namespaces                   │
//!                    └────────────────────── next time ──────────────────────────────────┘
//! ```
//!
//! It must never let one pod that hangs delay the probes of another, say anything of a run that nobody probed, or act on
//! what it finds: restarting containers and telling endpoints is the owner task's.

pub(crate) mod command;
mod grpc;
mod schedule;
mod spec;
mod turns;

use crate::{
    clock::{self, Pace},
    context::Context,
    events::Severity,
    pod::{http_get, reach, subject::Subject},
};
use coracle_objects::meta;
use coracle_runner::protocol::RunId;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use schedule::Schedule;
pub(crate) use spec::Kind;
use spec::Spec;
use std::{fmt, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use turns::Turns;

/// Probes over the network that are under way at one time, of all pods: each has a descriptor.
const CONNECTIONS_MAX: usize = 4096;
/// Probes by a command that are under way at one time, of all pods: each has an instance in a runner.
const COMMANDS_MAX: usize = 256;
/// What is read of an answer, and of what a command prints: bytes.
pub(crate) const OUTPUT_BYTES_MAX: usize = 10 << 10;
/// How probes name themselves to servers.
const USER_AGENT: &str = "kube-probe/1.33";
/// Events of one run that are written at once, and how long it takes until one more may be.
const EVENTS_AT_ONCE: u32 = 25;
/// See [`EVENTS_AT_ONCE`].
const EVENT_INTERVAL: Duration = Duration::from_mins(5);

/// What a probe has come to, by its thresholds. Told when it changes, and the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The container, among init and app containers.
    pub(crate) index: usize,
    pub(crate) run: RunId,
    pub(crate) kind: Kind,
    pub(crate) healthy: bool,
    /// What the last probe said.
    pub(crate) message: String,
    /// The probe's own `terminationGracePeriodSeconds`.
    pub(crate) grace: Option<Duration>,
}

/// The probes of one run. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Probing {
    _task: AbortOnDropHandle<()>,
}

/// What all probes of the agent share.
pub(crate) struct Probes {
    connections: Arc<Turns>,
    commands: Arc<Turns>,
    /// When this agent began, by the wall clock and by its own.
    began: (OffsetDateTime, Instant),
}

impl Probes {
    /// For an agent that begins now.
    pub(crate) fn new(pace: &Pace) -> Self {
        Self {
            connections: Turns::new(CONNECTIONS_MAX),
            commands: Turns::new(COMMANDS_MAX),
            began: (clock::now(), pace.now()),
        }
    }

    /// How long the probes of a run wait beyond their own delay. Pods that were there before this agent all come back at
    /// once: their probes are spread over a period. `share` is from 0 to 1.
    fn spread(&self, subject: &Subject, period: Duration, now: Instant, share: f64) -> Duration {
        let start = clock::parse(subject.pod["status"]["startTime"].as_str().unwrap_or_default());
        // Times in a status are whole seconds.
        let is_older = start.is_some_and(|at| at + Duration::from_secs(1) < self.began.0);
        let is_early = now.saturating_duration_since(self.began.1) < period;
        if is_older && is_early { period.mul_f64(share) } else { Duration::ZERO }
    }
}

/// How one probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Success(String),
    /// It counts as a success, and people should know of it.
    Warning(String),
    Failure(String),
    /// It could not be made, which says nothing about the container.
    Error(String),
}

/// Begins to probe a run that has just started. `None` where its container has no probes. Whoever gets the verdicts must
/// take them promptly: while one waits, this run is not probed.
pub(crate) fn start(context: &Arc<Context>, subject: Subject, said: mpsc::Sender<Verdict>) -> Option<Probing> {
    let specs: Vec<Spec> = Kind::ALL.into_iter().filter_map(|kind| Spec::of(subject.container(), kind)).collect();
    if specs.is_empty() {
        return None;
    }
    let now = context.pace.now();
    let waits = specs.iter().any(|spec| spec.kind == Kind::Startup);
    let schedules = specs.into_iter().map(|spec| {
        let from = now + context.probes.spread(&subject, spec.period, now, rand::random());
        Schedule::new(spec, from, waits && spec.kind != Kind::Startup)
    });
    let run = Run {
        schedules: schedules.collect(),
        context: context.clone(),
        subject: Arc::new(subject),
        said,
        events_left: EVENTS_AT_ONCE,
        events_since: now,
    };
    Some(Probing { _task: AbortOnDropHandle::new(tokio::spawn(run.probe())) })
}

struct Run {
    context: Arc<Context>,
    subject: Arc<Subject>,
    schedules: Box<[Schedule]>,
    said: mpsc::Sender<Verdict>,
    /// Events that may be written now; one more for each interval that passes.
    events_left: u32,
    events_since: Instant,
}

type Flight = FuturesUnordered<BoxFuture<'static, (usize, Outcome)>>;

impl Run {
    /// Probes until there is nothing left to find out about this run, or nobody who wants to know.
    async fn probe(mut self) {
        let pace = self.context.pace;
        let mut flight = Flight::new();
        loop {
            let now = pace.now();
            for (position, schedule) in self.schedules.iter_mut().enumerate() {
                if schedule.due().is_some_and(|at| at <= now) {
                    schedule.begin();
                    let one = probe_once(self.context.clone(), self.subject.clone(), schedule.spec);
                    flight.push(Box::pin(async move { (position, one.await) }));
                }
            }
            let next = self.schedules.iter().filter_map(Schedule::due).min();
            let wait = async {
                match next {
                    Some(at) => pace.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            if next.is_none() && flight.is_empty() {
                return;
            }
            tokio::select! {
                Some((position, outcome)) = flight.next() => if !self.done(position, outcome).await { return },
                () = wait => {}
            }
        }
    }

    /// One probe has ended. `false`: nobody wants to know any more.
    async fn done(&mut self, position: usize, outcome: Outcome) -> bool {
        let now = self.context.pace.now();
        let schedule = &mut self.schedules[position];
        let (kind, grace) = (schedule.spec.kind, schedule.spec.grace);
        let was_early = schedule.is_early();
        let (result, message) = match &outcome {
            Outcome::Success(message) | Outcome::Warning(message) => (Some(true), message),
            Outcome::Failure(message) => (Some(false), message),
            Outcome::Error(message) => (None, message),
        };
        let verdict = schedule.done(result, now);
        match &outcome {
            Outcome::Success(_) => {}
            // It is not yet time to expect anything.
            Outcome::Failure(_) | Outcome::Error(_) if was_early => {}
            Outcome::Failure(text) => self.tell("Unhealthy", &format!("{kind} probe failed: {text}"), now),
            Outcome::Warning(text) => self.tell("ProbeWarning", &format!("{kind} probe warning: {text}"), now),
            Outcome::Error(text) => {
                self.tell("Unhealthy", &format!("{kind} probe errored and resulted in unknown state: {text}"), now);
            }
        }
        let Some(healthy) = verdict else { return true };
        if kind == Kind::Startup && healthy {
            for other in &mut self.schedules {
                other.container_started(now);
            }
        }
        let (index, run, message) = (self.subject.index, self.subject.run.clone(), message.clone());
        self.said.send(Verdict { index, run, kind, healthy, message, grace }).await.is_ok()
    }

    fn tell(&mut self, reason: &'static str, message: &str, now: Instant) {
        while self.events_left < EVENTS_AT_ONCE && now.duration_since(self.events_since) >= EVENT_INTERVAL {
            self.events_left += 1;
            self.events_since += EVENT_INTERVAL;
        }
        if self.events_left == 0 {
            return;
        }
        if self.events_left == EVENTS_AT_ONCE {
            self.events_since = now;
        }
        self.events_left -= 1;
        let (pod, path) = (&self.subject.pod, self.subject.field_path());
        self.context.recorder.record(pod, &path, Severity::Warning, reason, message);
    }
}

/// Probes once, when it is this pod's turn.
async fn probe_once(context: Arc<Context>, subject: Arc<Subject>, spec: Spec) -> Outcome {
    let probe = &subject.container()[spec.kind.field()];
    let namespace = meta::namespace(&subject.pod);
    let turns = if probe["exec"].is_object() { &context.probes.commands } else { &context.probes.connections };
    let _turn = turns.take(namespace).await;
    if let Some(command) = command::words(&probe["exec"]) {
        return by_command(&context, &subject, command, spec.timeout).await;
    }
    let connected = async {
        if probe["httpGet"].is_object() {
            by_http(&context, &subject, probe, spec.timeout).await
        } else if probe["tcpSocket"].is_object() {
            let (host, port) = (probe["tcpSocket"]["host"].as_str().unwrap_or_default(), &probe["tcpSocket"]["port"]);
            let port = subject.port(port)?;
            Ok(over_in(&context.pace, spec.timeout, reach::connect(&context, &subject, host, port)).await.map_or_else(
                || Outcome::Failure(format!("dial tcp {}: i/o timeout", reach::authority(&subject, host, port))),
                |result| result.map_or_else(Outcome::Failure, |_| Outcome::Success(String::new())),
            ))
        } else if probe["grpc"].is_object() {
            let port = subject.port(&probe["grpc"]["port"])?;
            let service = probe["grpc"]["service"].as_str().unwrap_or_default();
            Ok(grpc::check(&context, &subject, port, service, spec.timeout).await)
        } else {
            Err(format!("the {} has no handler that this node knows", spec.kind.field()))
        }
    };
    connected.await.unwrap_or_else(Outcome::Error)
}

async fn by_http(
    context: &Arc<Context>,
    subject: &Arc<Subject>,
    probe: &serde_json::Value,
    limit: Duration,
) -> Result<Outcome, String> {
    let request = http_get::Request::of(subject, &probe["httpGet"], USER_AGENT)?;
    Ok(match http_get::get(context, subject, &request, limit).await {
        Err(error) => Outcome::Failure(error),
        Ok(answer) => match answer.status {
            200..300 => Outcome::Success(answer.text()),
            300..400 => Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.text())),
            status => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        },
    })
}

async fn by_command(context: &Arc<Context>, subject: &Subject, command: Vec<String>, limit: Duration) -> Outcome {
    match command::run(context, subject, command.clone(), limit).await {
        command::End::Exited { code: 0, output } => Outcome::Success(output),
        command::End::Exited { code: _, output } => Outcome::Failure(output),
        command::End::TimedOut => {
            Outcome::Failure(format!("command timed out: {:?} timed out after {}s", command.join(" "), limit.as_secs()))
        }
        command::End::NotRun(error) => Outcome::Error(error),
    }
}

/// The output of `work`, or `None` when it takes longer than `limit`.
async fn over_in<T>(pace: &Pace, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        output = work => Some(output),
        () = pace.sleep(limit) => None,
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
