//! The pod network as guests see it, with the agent's end of the channel in the tests' hands.

use crate::fixture::{Context, Guest};
use std::sync::Arc;

pub(crate) async fn a_pod_without_an_address_has_localhost(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.guest(Guest::Network, &["sockets"]).await;
    let run = runner.run(start).await;
    assert_eq!(run.stdout, "connect: connection refused\nlisten: it worked\nudp: it worked\n");
}
