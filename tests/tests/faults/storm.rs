//! `kill -9` of the agent, of runners and of compilers amid hundreds of pods.

use coracle_tests::{
    Apart, Footprint, eventually, guest,
    random::Random,
    storm::{Storm, VICTIMS},
};

/// Pods of the first storm, which only makes what is kept on purpose.
const WARM: usize = 10;
/// Pods of the storm, and those of another gust while somebody has not been killed yet.
const PODS: usize = 90;
const MORE: usize = 15;
const GUSTS_MAX: usize = 10;
const NAMESPACES: usize = 3;

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

#[test]
fn namespaces_that_go_while_the_agent_is_dead_leave_nothing() {
    let (mut apart, random, before) = warmed();
    let mut storm = Storm::new(&apart, random, "unseen", 2);
    storm.rage(&mut apart, WARM, &[]);
    storm.settle(&apart);
    storm.end_unseen(&mut apart);
    eventually("the footprint of before", || Footprint::of(&apart).within(&before));
}

#[test]
fn whoever_is_killed_in_a_storm_of_pods_all_converge_and_nothing_is_left() {
    let (mut apart, mut random, before) = warmed();
    let mut storm = Storm::new(&apart, random.fork(), "storm", NAMESPACES);
    storm.rage(&mut apart, PODS, &VICTIMS);
    for _ in 0..GUSTS_MAX {
        // A compiler may be too quick to be met.
        let spared: Vec<_> = VICTIMS.into_iter().filter(|victim| storm.kills(*victim) == 0).collect();
        if !spared.is_empty() {
            storm.rage(&mut apart, MORE, &spared);
        }
    }
    for victim in VICTIMS {
        assert!(storm.kills(victim) > 0, "no {victim:?} was killed");
    }
    storm.settle(&apart);
    let done = storm.end(&apart);
    eventually("the footprint of before", || Footprint::of(&apart).within(&before));
    println!("{done}\nbefore {before}\nafter  {}", Footprint::of(&apart));
}
