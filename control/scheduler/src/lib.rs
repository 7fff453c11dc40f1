//! Chooses a node for every pod that has none.

use coracle_client::Client;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs until `shutdown` is cancelled.
pub async fn run(_client: Arc<dyn Client>, _shutdown: CancellationToken) {
    unimplemented!("owner: controllers")
}
