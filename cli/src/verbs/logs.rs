//! `coracle logs`: of one container, or of many, one after the other or followed at the same time.

mod lines;

use super::{ScopeArgs, duration, pods, print::refusal};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_objects::{catalogue, meta};
use coracle_sdk::{
    Connection,
    connection::{ListOptions, LogRequest},
};
use lines::Lines;
use serde_json::Value;
use std::{
    io::{self, Write as _},
    process::ExitCode,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::StreamExt as _;

/// Lines of each log where pods are selected and nothing else is said.
const SELECTED_TAIL_LINES: i64 = 10;
/// Pieces of output that wait to be printed.
const PIECES_MAX: usize = 16;

/// Print the logs of containers.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are the switches of a command line")]
pub(crate) struct Logs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// The pod: NAME, pod/NAME, or what selects pods, such as svc/NAME
    #[arg(required_unless_present = "selector")]
    pod: Option<String>,
    /// The container, where the pod has several
    #[arg(short, long, default_value = "", hide_default_value = true)]
    container: String,
    /// All containers of each pod
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,
    /// The pods that this label selector selects
    #[arg(short = 'l', long, conflicts_with = "pod")]
    selector: Option<String>,
    /// Go on printing what is written
    #[arg(short, long)]
    follow: bool,
    /// The log of the container's previous run
    #[arg(short, long)]
    previous: bool,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
    /// Begin each line with where it comes from: [pod/NAME/CONTAINER]
    #[arg(long)]
    prefix: bool,
    /// Only the last lines; -1: all [default: -1, with -l 10]
    #[arg(long, allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Only what is not older than this, such as 5s, 2m or 1h30m
    #[arg(long, value_name = "DURATION", value_parser = duration::seconds, conflicts_with = "since_time")]
    since: Option<i64>,
    /// Only what was written after this, such as 2026-11-20T11:41:57Z
    #[arg(long, value_name = "TIME")]
    since_time: Option<String>,
    /// Most bytes of each log
    #[arg(long)]
    limit_bytes: Option<i64>,
    /// Most logs to follow at a time
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    max_log_requests: u16,
    /// Go on with the others when a log cannot be read
    #[arg(long)]
    ignore_errors: bool,
}

/// A container whose log is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    pod: String,
    container: String,
}

impl Logs {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, namespace) = self.scope.connect()?;
        let pods = self.pods(&connection, &namespace).await?;
        if pods.is_empty() {
            pods::say(&format!("No resources found in {namespace} namespace."));
        }
        let sources = self.sources(&pods)?;
        let most = usize::from(self.max_log_requests);
        if self.follow && sources.len() > most {
            bail!(
                "you are attempting to follow {} log streams, but maximum allowed concurrency is {most}, use \
                 --max-log-requests to increase the limit",
                sources.len()
            );
        }
        let (pieces, printing) = mpsc::channel(PIECES_MAX);
        let reading = async {
            if self.follow {
                self.at_once(&connection, &namespace, &sources, pieces).await
            } else {
                self.one_by_one(&connection, &namespace, &sources, pieces).await
            }
        };
        let (read, printed) = tokio::join!(reading, print(printing));
        // Who reads no more of it wants no more of it.
        printed?;
        read?;
        Ok(ExitCode::SUCCESS)
    }

    async fn pods(&self, connection: &Connection, namespace: &str) -> Result<Vec<Value>> {
        let Some(selector) = &self.selector else {
            let pod = self.pod.as_deref().context("no pod is named")?;
            return Ok(vec![pods::find(connection, namespace, pod).await?.pod]);
        };
        let options =
            ListOptions { namespace: namespace.to_owned(), label_selector: selector.clone(), ..ListOptions::default() };
        Ok(connection.list(catalogue::pods(), &options).await.map_err(refusal)?.0)
    }

    /// The containers of these pods that are meant, in their order.
    fn sources(&self, pods: &[Value]) -> Result<Vec<Source>> {
        let mut sources = Vec::new();
        for pod in pods {
            let containers = if self.all_containers {
                ["initContainers", "containers"].iter().flat_map(|list| pods::names(pod, list)).collect()
            } else {
                vec![pods::chosen(pod, &self.container)?]
            };
            let source = |container| Source { pod: meta::name(pod).to_owned(), container };
            sources.extend(containers.into_iter().map(source));
        }
        Ok(sources)
    }

    fn request(&self, namespace: &str, source: &Source) -> LogRequest {
        let tail = self.tail.unwrap_or(if self.selector.is_some() { SELECTED_TAIL_LINES } else { -1 });
        LogRequest {
            namespace: namespace.to_owned(),
            pod: source.pod.clone(),
            container: source.container.clone(),
            follow: self.follow,
            previous: self.previous,
            timestamps: self.timestamps,
            tail_lines: (tail >= 0).then_some(tail),
            since_seconds: self.since,
            since_time: self.since_time.clone().unwrap_or_default(),
            limit_bytes: self.limit_bytes,
            ..LogRequest::default()
        }
    }

    async fn one_by_one(
        &self,
        connection: &Connection,
        namespace: &str,
        sources: &[Source],
        pieces: mpsc::Sender<Vec<u8>>,
    ) -> Result<()> {
        for source in sources {
            let lines = self.lines(source, false);
            let read = read(connection, self.request(namespace, source), lines, &pieces).await;
            self.forgive(read)?;
        }
        Ok(())
    }

    async fn at_once(
        &self,
        connection: &Connection,
        namespace: &str,
        sources: &[Source],
        pieces: mpsc::Sender<Vec<u8>>,
    ) -> Result<()> {
        let mut reading = JoinSet::new();
        for source in sources {
            let (connection, request) = (connection.clone(), self.request(namespace, source));
            let (lines, pieces) = (self.lines(source, sources.len() > 1), pieces.clone());
            reading.spawn(async move { read(&connection, request, lines, &pieces).await });
        }
        drop(pieces);
        while let Some(read) = reading.join_next().await {
            self.forgive(read?)?;
        }
        Ok(())
    }

    /// How this log is printed: whole lines only where others are printed at the same time.
    fn lines(&self, source: &Source, among_others: bool) -> Option<Lines> {
        let prefix = if self.prefix { format!("[pod/{}/{}] ", source.pod, source.container) } else { String::new() };
        (self.prefix || among_others).then(|| Lines::new(prefix))
    }

    fn forgive(&self, read: Result<()>) -> Result<()> {
        match read {
            Err(error) if self.ignore_errors => {
                pods::say(&format!("error: {error:#}"));
                Ok(())
            }
            read => read,
        }
    }
}

/// Reads one log to its end, or until nobody prints it any more.
async fn read(
    connection: &Connection,
    request: LogRequest,
    mut lines: Option<Lines>,
    pieces: &mpsc::Sender<Vec<u8>>,
) -> Result<()> {
    let mut chunks = connection.logs(request).await.map_err(refusal)?;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(refusal)?;
        let piece = match &mut lines {
            Some(lines) => lines.take(&chunk),
            None => chunk.to_vec(),
        };
        if !piece.is_empty() && pieces.send(piece).await.is_err() {
            return Ok(());
        }
    }
    if let Some(lines) = lines {
        // As above.
        let _ = pieces.send(lines.rest()).await;
    }
    Ok(())
}

async fn print(mut pieces: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(piece) = pieces.recv().await {
        let mut out = io::stdout().lock();
        out.write_all(&piece)?;
        out.flush()?;
    }
    Ok(())
}
