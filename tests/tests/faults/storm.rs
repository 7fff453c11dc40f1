//! `kill -9` of the agent amid a compilation. The storms that kill agent, runners and compilers amid hundreds of pods take
//! minutes: `make soak` has them.

use coracle_tests::{
    Apart, eventually, guest,
    random::Random,
    storm::{Footprint, Storm},
};

/// Pods of the first storm, which only makes what is kept on purpose.
const WARM: usize = 10;

/// Both processes, what draws for the test, and what the node holds when nothing runs that ever ran.
fn warmed() -> (Apart, Random, Footprint) {
    let mut apart = Apart::start();
    apart.push(&guest("toolbox.wasm"), "toolbox:1");
    let mut random = Random::seeded();
    let mut warm = Storm::new(&apart, random.fork(), "warm", 1);
    warm.rage(&mut apart, WARM, &[]);
    warm.settle(&apart);
    warm.end(&apart);
    let before = Footprint::without_runners(&apart);
    (apart, random, before)
}

#[test]
fn an_agent_killed_amid_a_compilation_that_nobody_wants_any_more_leaves_nothing_of_it() {
    let (mut apart, random, before) = warmed();
    let mut storm = Storm::new(&apart, random, "storm", 1);
    assert!(storm.kill_amid_compilation(&mut apart), "no compiler was met");
    storm.end(&apart);
    eventually("the footprint of before", || Footprint::of(&apart).within(&before));
}
