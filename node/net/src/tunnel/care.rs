//! Looks after connections: those that nobody uses are closed, as those of peers whose
//! certificate has expired, and peers behind the relay are tried directly again.

use super::{
    CLOSED_STRANGER, CLOSED_SURPLUS, CLOSED_UNUSED, Shared,
    limits::{CARE, SURPLUS},
    peers::Path,
    record::Record,
};
use std::{sync::Arc, time::Instant};

/// Until the tunnel ends. Sleeps without a timer while there are no connections.
pub(super) async fn look_after(shared: Arc<Shared>) {
    loop {
        let records: Vec<_> = shared.table.read().records.values().cloned().collect();
        let now = Instant::now();
        let mut has_links = false;
        for record in &records {
            has_links |= look_at(&shared, record, now);
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(CARE), if has_links => {}
            () = shared.has_links.notified(), if !has_links => {}
        }
    }
}

/// Whether the peer has connections.
fn look_at(shared: &Arc<Shared>, record: &Arc<Record>, now: Instant) -> bool {
    let mut state = record.state.lock();
    let best = record.best(&state);
    let unused = shared.config.limits.unused;
    let mut over = Vec::new();
    for link in &state.links {
        let is_best = best.as_ref().is_some_and(|best| Arc::ptr_eq(best, link));
        let unused_for = link.unused_for(now);
        if link.has_expired_for(shared.config.limits.expired_grace) {
            over.push((Arc::clone(link), CLOSED_STRANGER, "the node's certificate has expired"));
        } else if unused_for >= unused {
            over.push((Arc::clone(link), CLOSED_UNUSED, "nobody uses it"));
        } else if !is_best && unused_for >= SURPLUS && best.is_some() {
            over.push((Arc::clone(link), CLOSED_SURPLUS, "there is a better one"));
        }
    }
    let is_relayed = best.is_some_and(|best| best.path() == Path::Relayed);
    let tries_directly =
        is_relayed && !state.is_connecting && state.is_direct_retry_due(now, shared.config.limits.direct_retry);
    let has_links = !state.links.is_empty();
    drop(state);
    for (link, code, why) in &over {
        link.close(*code, why);
    }
    if tries_directly {
        let (shared, record) = (Arc::clone(shared), Arc::clone(record));
        shared.tasks.clone().spawn(async move {
            let result = shared.stop.clone().run_until_cancelled_owned(shared.reach_directly(&record)).await;
            if let Some(Err(why)) = result {
                tracing::debug!(node = %record.node, why, "still no direct way to a node");
            }
        });
    }
    has_links
}
