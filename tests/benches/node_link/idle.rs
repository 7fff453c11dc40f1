//! A node without pods: what its link carries in a minute.

use super::{relay, start_node};
use coracle_tests::{Kubectl, eventually};
use std::{net::SocketAddr, path::Path, thread, time::Duration};

/// Until a node that has started has nothing to say any more.
const SETTLE: Duration = Duration::from_secs(30);
/// How long is looked: as long as from one refresh of the Node's status to the next, so that one is in it.
const LOOK: Duration = Duration::from_mins(5);
const LOOK_SHORT: Duration = Duration::from_secs(30);
/// The goal: `KubeEdge`'s 0.25 kbit/s.
const GOAL_BYTES_PER_MINUTE: f64 = 0.25 * 1000.0 / 8.0 * 60.0;

pub fn measure(server: SocketAddr, data: &Path, node: &Path, kubectl: &Kubectl, short: bool) {
    let (address, counts) = relay::start(server);
    let _node = start_node(&format!("https://{address}"), data, node);
    eventually("readiness", || kubectl.run("get --raw /readyz"));
    thread::sleep(SETTLE);
    let before = counts.read();
    let look = if short { LOOK_SHORT } else { LOOK };
    thread::sleep(look);
    let after = counts.read();
    let minutes = look.as_secs_f64() / 60.0;
    let [up, down] = [0, 1].map(|index| f64::from(u32::try_from(after[index] - before[index]).expect("few")) / minutes);
    println!("link of an idle node (heartbeat every 10 s), TCP payload including TLS, over {look:?}:");
    println!(
        "  {up:.0} bytes/minute to the server, {down:.0} from it: {:.3} kbit/s",
        (up + down) * 8.0 / 60.0 / 1000.0
    );
    println!(
        "  goal: {GOAL_BYTES_PER_MINUTE:.0} bytes/minute, 0.25 kbit/s; connections: {} (was {})",
        after[2], before[2]
    );
    println!("  to begin with: {} bytes to the server, {} from it", before[0], before[1]);
}
