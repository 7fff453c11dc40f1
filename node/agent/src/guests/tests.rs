//! What is known of runs.

use super::*;
use crate::output::Feed;

fn run() -> (Run, CancellationToken) {
    let over = CancellationToken::new();
    let (feed, _reader) = Feed::new();
    let run = Run {
        promise: Promise::None,
        pod_uid: "pod".to_owned(),
        shares: 2,
        events: mpsc::channel(1).0,
        screen: Screen { output: Arc::new(Output::Reader(feed)), audience: None, terminal: None },
        input: None,
        over: over.clone(),
    };
    (run, over)
}

#[test]
fn who_waits_for_the_end_of_a_run_hears_of_it_at_once() {
    let (ids, mut runs) = (["one", "two"].map(|id| RunId(id.to_owned())), Runs::default());
    let [one, two] = ids.clone().map(|id| {
        let (run, over) = run();
        runs.insert(id, run, 1);
        over
    });
    drop(runs.remove(&ids[0]));
    assert!(one.is_cancelled() && !two.is_cancelled(), "it exited");
    drop(runs.close());
    assert!(two.is_cancelled(), "its runner died");
}
