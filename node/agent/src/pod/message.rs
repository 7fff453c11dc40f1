//! A container's termination message: what it wrote for whoever wonders why it ended, or the end of its log.

use crate::{
    context::Context,
    logs::read::{self, Wanted},
    pod::termination,
};
use bytes::Bytes;
use coracle_runner::protocol::RunId;
use serde_json::Value;
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Bytes at most of one container's message.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Bytes at most of all messages of a pod.
const POD_BYTES_MAX: usize = 12 * 1024;
/// Lines and bytes of a log that stand for a message.
const LOG_LINES_MAX: u64 = 80;
const LOG_BYTES_MAX: usize = 2048;
/// Pieces of a log under way to this task.
const LOG_PIECES: usize = 4;

/// Bytes at most of the message of one container, where a pod has so many.
pub(crate) fn share(containers: usize) -> usize {
    MESSAGE_BYTES_MAX.min(POD_BYTES_MAX / containers.max(1))
}

/// Where the message of one run is.
pub(crate) struct Source {
    pub(crate) context: Arc<Context>,
    pub(crate) pod: Arc<Value>,
    pub(crate) namespace_uid: String,
    /// The container's spec.
    pub(crate) container: Value,
    pub(crate) run: RunId,
    /// Which run of its container, as its log counts.
    pub(crate) number: u32,
    /// It ended badly.
    pub(crate) failed: bool,
    pub(crate) bytes_max: usize,
}

impl Source {
    /// What the run left; `otherwise`, what the runner says of its end, where that is nothing.
    pub(crate) async fn read(self, otherwise: String) -> String {
        let falls_back = self.failed && self.container["terminationMessagePolicy"] == "FallbackToLogsOnError";
        let mut message = self.written().await;
        if message.is_empty() && falls_back {
            message = self.logged().await;
        }
        let message = if message.is_empty() { otherwise } else { message };
        cut(message, self.bytes_max)
    }

    /// What the container wrote for this.
    async fn written(&self) -> String {
        let (context, namespace_uid, pod) = (self.context.clone(), self.namespace_uid.clone(), self.pod.clone());
        let (container, run) = (self.container.clone(), self.run.clone());
        let read = move || termination::read(&context, &namespace_uid, &pod, &container, &run);
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| {
            warn!(%error, "reading a termination message was interrupted");
            String::new()
        })
    }

    /// The end of the run's log.
    async fn logged(&self) -> String {
        let name = self.container["name"].as_str().unwrap_or_default();
        let Some(directory) = self.context.logs.container_directory(&self.pod, name) else { return String::new() };
        let (pieces, mut read) = mpsc::channel::<Bytes>(LOG_PIECES);
        let wanted = Wanted { tail_lines: Some(LOG_LINES_MAX), ..Wanted::default() };
        let collect = async {
            let mut end: VecDeque<u8> = VecDeque::new();
            while let Some(piece) = read.recv().await {
                end.extend(piece);
                end.drain(..end.len().saturating_sub(LOG_BYTES_MAX));
            }
            end
        };
        let reading = async move { read::read(&directory, self.number, wanted, &pieces).await };
        let (result, end) = tokio::join!(reading, collect);
        if let Err(error) = result {
            debug!(%error, "a log cannot be read for a termination message");
        }
        String::from_utf8_lossy(&Vec::from(end)).into_owned()
    }
}

fn cut(mut message: String, bytes_max: usize) -> String {
    let mut end = message.len().min(bytes_max);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_of_a_pod_share_what_there_is() {
        for (containers, bytes) in [(0, 4096), (1, 4096), (3, 4096), (4, 3072), (12, 1024)] {
            assert_eq!(share(containers), bytes, "{containers}");
        }
        assert_eq!(cut("aäö".to_owned(), 4), "aä");
        assert_eq!(cut("aä".to_owned(), 4096), "aä");
    }
}
