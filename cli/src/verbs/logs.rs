//! `coracle logs`.

use super::{ScopeArgs, print::refusal};
use anyhow::Result;
use clap::Args;
use coracle_sdk::connection::LogRequest;
use std::{
    io::{self, Write as _},
    process::ExitCode,
};
use tokio_stream::StreamExt as _;

/// Print the log of a container.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// The pod: NAME or pod/NAME
    pod: String,
    /// The container, where the pod has several
    #[arg(short, long, default_value = "", hide_default_value = true)]
    container: String,
    /// Go on printing what is written
    #[arg(short, long)]
    follow: bool,
    /// The log of the container's previous run
    #[arg(short, long)]
    previous: bool,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
    /// Only the last lines; -1: all
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    tail: i64,
}

impl Logs {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, namespace) = self.scope.connect()?;
        let pod = ["pod/", "pods/", "po/"].iter().find_map(|prefix| self.pod.strip_prefix(prefix));
        let request = LogRequest {
            namespace,
            pod: pod.unwrap_or(&self.pod).to_owned(),
            container: self.container,
            follow: self.follow,
            previous: self.previous,
            timestamps: self.timestamps,
            tail_lines: (self.tail >= 0).then_some(self.tail),
            ..LogRequest::default()
        };
        let mut chunks = connection.logs(request).await.map_err(refusal)?;
        let mut out = io::stdout().lock();
        while let Some(chunk) = chunks.next().await {
            out.write_all(&chunk.map_err(refusal)?)?;
            out.flush()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
