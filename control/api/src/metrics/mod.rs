//! The metrics API's numbers: asked of nodes over their links when somebody wants them, and kept for some seconds.
//!
//! A node that does not answer in time is left out, as is what has no rate yet; nothing is invented.

mod summary;

pub(crate) use summary::{NodeUsage, PodUsage};

use crate::nodelink::NodeLinks;
use bytes::BytesMut;
use coracle_objects::{ApiError, Reason};
use coracle_wire::v1::{SummaryRequest, open_session::Purpose, summary_request::Format};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// For so long an answer of a node is good enough.
const FRESH: Duration = Duration::from_secs(10);
/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Nodes that are asked at a time.
const ASKED_AT_ONCE: usize = 32;
/// Largest summary that is read; one of 10,000 pods has about 15 MB.
const SUMMARY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What nodes said last.
#[derive(Default)]
pub(crate) struct Summaries {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone)]
struct Known {
    at: Instant,
    usage: Arc<NodeUsage>,
}

impl Summaries {
    /// What these nodes use, by name; nodes that do not answer are left out.
    pub(crate) async fn of(&self, links: &NodeLinks, nodes: Vec<String>) -> HashMap<String, Arc<NodeUsage>> {
        let asked = stream::iter(nodes).map(async |node| {
            let usage = self.of_node(links, &node).await;
            (node, usage)
        });
        let mut found = HashMap::new();
        let mut answers = asked.buffer_unordered(ASKED_AT_ONCE);
        while let Some((node, usage)) = answers.next().await {
            match usage {
                Ok(usage) => drop(found.insert(node, usage)),
                Err(error) => tracing::debug!(node, %error, "a node does not say what it uses"),
            }
        }
        found
    }

    async fn of_node(&self, links: &NodeLinks, node: &str) -> Result<Arc<NodeUsage>, ApiError> {
        let known = self.known.lock().get(node).cloned();
        if let Some(known) = known.filter(|known| known.at.elapsed() < FRESH) {
            return Ok(known.usage);
        }
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, ask(links, node)).await;
        let usage = asked.map_err(|_| {
            ApiError::new(Reason::Timeout, format!("node \"{node}\" did not answer within {ANSWER_TIMEOUT:?}"))
        })??;
        let usage = Arc::new(usage);
        let mut known = self.known.lock();
        // Nodes come and go; what is stale is of no use.
        known.retain(|_, known| known.at.elapsed() < FRESH);
        known.insert(node.to_owned(), Known { at: Instant::now(), usage: Arc::clone(&usage) });
        Ok(usage)
    }
}

async fn ask(links: &NodeLinks, node: &str) -> Result<NodeUsage, ApiError> {
    let purpose = Purpose::Summary(SummaryRequest { format: Format::Json.into() });
    let mut answer = links.open_data(node, purpose).await?;
    let mut text = BytesMut::new();
    while let Some(piece) = answer.try_next().await? {
        if text.len() + piece.len() > SUMMARY_BYTES_MAX {
            return Err(ApiError::internal(format!("the summary is larger than {SUMMARY_BYTES_MAX} bytes")));
        }
        text.extend_from_slice(&piece);
    }
    NodeUsage::parse(&text).ok_or_else(|| ApiError::internal("the node's summary makes no sense"))
}
