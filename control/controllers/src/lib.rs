//! Controllers: one file per kind, each a pure `plan(desired, observed) -> actions` behind a small runtime.

use coracle_client::Client;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs every controller until `shutdown` is cancelled.
pub async fn run(_client: Arc<dyn Client>, _shutdown: CancellationToken) {
    unimplemented!("owner: controllers")
}
