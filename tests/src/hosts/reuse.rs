//! Pods that come and go until their addresses have been others' many times, while pods of another host ask for them by
//! the names of services: whoever answers has to be one of those that were asked for.

use super::Realm;
use crate::{
    Kubectl, eventually,
    network::{self, client, server, service},
    pods::{self, on, running},
    random::Random,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Services, pods that come at once in each, and the generations of them that are there beside each other.
const SERVICES: usize = 3;
const BATCH: usize = 3;
const GENERATIONS: usize = 2;
/// Part of a processor that each of those who ask gets: they ask without a pause.
const ASKING_CPU: &str = "100m";

/// What came of it.
#[derive(Debug)]
pub struct Reuse {
    /// Pods that were there.
    pub pods: usize,
    /// Different addresses that they had.
    pub addresses: usize,
    /// Answers that were heard, all of which were right.
    pub answers: usize,
}

/// Makes and deletes `count` pods on node `with` while pods on node `from` ask for them.
///
/// # Panics
/// When somebody answers who was not asked, or pods do not come or go.
pub fn churn(realm: &Realm, kubectl: &Kubectl, from: &str, with: &str, count: usize, random: &mut Random) -> Reuse {
    let name = |service: usize| format!("s{service}");
    let asker = |service: usize| {
        let name = name(service);
        let asking: [&[&str]; 2] = [&["until", &name, "80"], &["get", &name, "80", "/", "100000000"]];
        let mut pod = on(from, client(&format!("asks-{name}"), &asking));
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": ASKING_CPU}});
        [pod, service_of(&name)]
    };
    let askers: Vec<Value> = (0..SERVICES).flat_map(asker).collect();
    let (mut addresses, mut made, mut answers) = (BTreeSet::new(), 0, 0);
    let mut generations: Vec<Vec<String>> = Vec::new();
    while made < count {
        let names: Vec<String> =
            (0..SERVICES * BATCH).map(|number| format!("{}-{}", name(number % SERVICES), made + number)).collect();
        let pod = |pod: &String| on(with, server(pod, pod.split('-').next().unwrap_or_default()));
        pods::apply(kubectl, "default", &names.iter().map(pod).collect::<Vec<_>>());
        if made == 0 {
            pods::apply(kubectl, "default", &askers);
        }
        made += names.len();
        for name in &names {
            let pod = running(kubectl, name);
            addresses.insert(pod["status"]["podIP"].to_string());
        }
        generations.push(names);
        if generations.len() > GENERATIONS {
            let oldest = generations.remove(0);
            // With and without grace, as it comes.
            let how = ["--wait=true", "--force --grace-period=0"][random.below(2)];
            let deleted = kubectl.run(&format!("delete pods {} {how} --timeout=150s", oldest.join(" ")));
            deleted.unwrap_or_else(|error| panic!("{error}"));
        }
        answers = (0..SERVICES).map(|service| right_answers(realm, from, &name(service))).sum();
    }
    for service in 0..SERVICES {
        let (name, before) = (name(service), right_answers(realm, from, &name(service)));
        network::endpoints(kubectl, &name, GENERATIONS * BATCH);
        eventually("more answers", || {
            let now = right_answers(realm, from, &name);
            if now > before { Ok(()) } else { Err(format!("{now} answers of {name}")) }
        });
    }
    let deleted = kubectl.run("delete pods --all --force --grace-period=0 --timeout=150s");
    deleted.unwrap_or_else(|error| panic!("{error}"));
    Reuse { pods: made, addresses: addresses.len(), answers }
}

fn service_of(name: &str) -> Value {
    service(name, name, &json!({"ports": [{"port": 80, "targetPort": 8080}]}))
}

/// How many answers the one who asks for a service has heard.
fn right_answers(realm: &Realm, node: &str, service: &str) -> usize {
    let said = realm.output(node, &format!("asks-{service}"));
    let hello = format!("200 hello from {service}-");
    let answers = said.lines().filter(|line| line.contains(" 200 "));
    answers.inspect(|line| assert!(line.contains(&hello), "who asked for {service} heard {line:?}")).count()
}
