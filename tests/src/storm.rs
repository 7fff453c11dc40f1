//! Hundreds of pods that come and go in several namespaces while the agent, runners and compilers are killed at random.
//!
//! The control plane stays: whatever it has acknowledged must come true. Every choice comes from one printed seed.

mod kinds;

use crate::{Apart, eventually, guest, kubectl::Kubectl, pods, processes, random::Random, wait::within};
use kinds::Kind;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

/// How long a hundred or more pods may take to settle on a busy two-core machine, back-off of failed attempts included.
const SETTLED_WITHIN: Duration = Duration::from_mins(4);
/// How long a compiler may take to appear after a pod of a new image was created.
const COMPILER_WITHIN: Duration = Duration::from_secs(20);
/// How often an agent is killed while it starts, and what is part of its start.
const STARTS: usize = 4;
const START_MILLIS: u16 = 2000;
/// Pods of one step.
const STEP_MIN: usize = 15;
const STEP_SPREAD: usize = 15;
/// More pods than these are not there at once.
const ALIVE_MAX: usize = 120;

/// What may be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The node agent; it is started again.
    Agent,
    /// The process of one namespace.
    Runner,
    /// The process that compiles a new image.
    Compiler,
}

/// All of them.
pub const VICTIMS: [Victim; 3] = [Victim::Agent, Victim::Runner, Victim::Compiler];

/// What was done, and what must be so.
pub struct Storm {
    random: Random,
    namespaces: Vec<String>,
    /// What exists: namespace and name, and what becomes of it.
    alive: BTreeMap<(String, String), Kind>,
    created: usize,
    deleted: usize,
    images: usize,
    /// Victims whose turn has not come.
    deck: Vec<Victim>,
    kills: BTreeMap<Victim, usize>,
}

impl Storm {
    /// Over so many new namespaces, whose names begin with `prefix`.
    ///
    /// # Panics
    /// When they cannot be made.
    #[must_use]
    pub fn new(apart: &Apart, random: Random, prefix: &str, namespaces: usize) -> Self {
        let kubectl = apart.kubectl();
        let namespaces: Vec<_> = (0..namespaces).map(|number| format!("{prefix}-{number}")).collect();
        for namespace in &namespaces {
            kubectl.run(&format!("create namespace {namespace}")).unwrap_or_else(|error| panic!("{error}"));
        }
        Self {
            random,
            namespaces,
            alive: BTreeMap::new(),
            created: 0,
            deleted: 0,
            images: 0,
            deck: Vec::new(),
            kills: BTreeMap::new(),
        }
    }

    /// Creates and deletes until `pods` more were created; after every step one of `victims` is killed, in shuffled
    /// turns.
    ///
    /// # Panics
    /// When anything is refused, the agent ends by itself, or a process outlives its agent.
    pub fn rage(&mut self, apart: &mut Apart, pods: usize, victims: &[Victim]) {
        let (kubectl, goal) = (apart.kubectl(), self.created + pods);
        while self.created < goal {
            let count = (STEP_MIN + self.random.below(STEP_SPREAD)).min(goal - self.created);
            self.create(&kubectl, count, "toolbox:1");
            let surplus = self.alive.len().saturating_sub(ALIVE_MAX);
            let count = surplus + self.random.below(STEP_MIN);
            self.delete(&kubectl, count);
            if let Some(victim) = self.next(victims) {
                self.strike(apart, victim);
            }
            apart.assert_node_runs();
        }
    }

    /// Kills the agent while one of its compilers works, deletes the pods that wanted the code while nobody is there to
    /// see it, and starts the agent again. Answers whether a compiler was met.
    ///
    /// # Panics
    /// When a process outlives the agent, or something is refused.
    pub fn kill_amid_compilation(&mut self, apart: &mut Apart) -> bool {
        let before: BTreeSet<_> = self.alive.keys().cloned().collect();
        let met = self.meet_compiler(apart).is_some();
        apart.kill_node();
        assert_no_strays(apart);
        let wanted: Vec<_> = self.alive.keys().filter(|pod| !before.contains(*pod)).cloned().collect();
        let kubectl = apart.kubectl();
        for pod in wanted {
            let words = format!("delete pod -n {} {} --force --grace-period=0", pod.0, pod.1);
            kubectl.run(&words).unwrap_or_else(|error| panic!("{words}: {error}"));
            self.alive.remove(&pod);
            self.deleted += 1;
        }
        apart.start_node();
        met
    }

    /// Kills the agent, and its successors while they start, each at another instant.
    fn kill_amid_starts(&mut self, apart: &mut Apart) {
        for _ in 0..STARTS {
            apart.kill_node();
            apart.start_node();
            let instant = self.random.below(usize::from(START_MILLIS));
            std::thread::sleep(Duration::from_millis(u64::try_from(instant).unwrap_or_default()));
        }
    }

    /// Waits until every pod that should be there has been where it must get to, and no other is there.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn settle(&self, apart: &Apart) {
        let kubectl = apart.kubectl();
        let mut settled = BTreeSet::new();
        within(SETTLED_WITHIN, "convergence", || {
            let listed = self.listed(&kubectl)?;
            if let Some(pod) = listed.keys().find(|pod| !self.alive.contains_key(*pod)) {
                return Err(format!("{pod:?} was deleted: {}", listed[pod]["status"]));
            }
            let mut waits = Vec::new();
            for (pod, kind) in &self.alive {
                let object = listed.get(pod).ok_or_else(|| format!("{pod:?} is lost"))?;
                if kind.is_settled(object) {
                    settled.insert(pod.clone());
                } else if !settled.contains(pod) {
                    waits.push((pod, object));
                }
            }
            match waits.first() {
                None => Ok(()),
                Some((pod, object)) => Err(format!("{} wait, {pod:?}: {}", waits.len(), object["status"])),
            }
        });
        assert_no_strays(apart);
    }

    /// Deletes every pod and waits until none is there; the namespaces stay.
    ///
    /// # Panics
    /// When one does not go.
    pub fn calm(&mut self, apart: &Apart) {
        let kubectl = apart.kubectl();
        for namespace in &self.namespaces {
            let deleted = kubectl.run(&format!("delete pods --all -n {namespace} --timeout=120s"));
            deleted.unwrap_or_else(|error| panic!("pods do not go: {error}\n{}", apart.log()));
        }
        self.deleted += self.alive.len();
        self.alive.clear();
    }

    /// Deletes the namespaces with all that is left in them; answers what was done.
    ///
    /// # Panics
    /// When one does not go.
    pub fn end(mut self, apart: &Apart) -> String {
        let (kubectl, names) = (apart.kubectl(), self.namespaces.join(" "));
        let deleted = kubectl.run(&format!("delete namespace {names} --timeout=180s"));
        deleted.unwrap_or_else(|error| panic!("namespaces do not go: {error}\n{}", apart.log()));
        self.deleted += self.alive.len();
        format!(
            "{} pods created, {} deleted, {} images, kills {:?}",
            self.created, self.deleted, self.images, self.kills
        )
    }

    /// Deletes the namespaces with all that is left in them while the agent is dead, and starts it again.
    ///
    /// # Panics
    /// When something does not go.
    pub fn end_unseen(self, apart: &mut Apart) {
        let (kubectl, names) = (apart.kubectl(), self.namespaces.join(" "));
        apart.kill_node();
        for namespace in &self.namespaces {
            let words = format!("delete pods --all -n {namespace} --force --grace-period=0");
            kubectl.run(&words).unwrap_or_else(|error| panic!("{words}: {error}"));
        }
        let deleted = kubectl.run(&format!("delete namespace {names} --timeout=60s"));
        deleted.unwrap_or_else(|error| panic!("namespaces do not go: {error}\n{}", apart.log()));
        apart.start_node();
    }

    /// How often each was killed.
    #[must_use]
    pub fn kills(&self, victim: Victim) -> usize {
        self.kills.get(&victim).copied().unwrap_or_default()
    }

    fn listed(&self, kubectl: &Kubectl) -> Result<BTreeMap<(String, String), Value>, String> {
        let all = kubectl.json("get pods -A")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let items = all["items"].as_array().into_iter().flatten();
        let named =
            items.map(|pod| ((text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"])), pod.clone()));
        Ok(named.filter(|((namespace, _), _)| self.namespaces.contains(namespace)).collect())
    }

    fn create(&mut self, kubectl: &Kubectl, count: usize, image: &str) {
        let mut objects = Vec::new();
        for _ in 0..count {
            let kind = Kind::any(&mut self.random);
            objects.push(self.one(kind, image));
        }
        apply(kubectl, objects);
    }

    fn one(&mut self, kind: Kind, image: &str) -> Value {
        let namespace = self.namespaces[self.random.below(self.namespaces.len())].clone();
        let name = format!("{}-{}", format!("{kind:?}").to_lowercase(), self.created);
        self.created += 1;
        let object = kind.pod(&namespace, &name, image);
        self.alive.insert((namespace, name), kind);
        object
    }

    /// Deletes about `count` pods chosen at random, some without grace.
    fn delete(&mut self, kubectl: &Kubectl, count: usize) {
        let mut chosen: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for _ in 0..count.min(self.alive.len()) {
            let index = self.random.below(self.alive.len());
            let Some(pod) = self.alive.keys().nth(index).cloned() else { continue };
            self.alive.remove(&pod);
            self.deleted += 1;
            chosen.entry(pod.0).or_default().push(pod.1);
        }
        for (namespace, names) in chosen {
            let force = if self.random.below(4) == 0 { "--force --grace-period=0" } else { "" };
            let words = format!("delete pod -n {namespace} {} --wait=false {force}", names.join(" "));
            kubectl.run(&words).unwrap_or_else(|error| panic!("{words}: {error}"));
        }
    }

    fn next(&mut self, victims: &[Victim]) -> Option<Victim> {
        if self.deck.is_empty() {
            self.deck = victims.to_vec();
        }
        if self.deck.is_empty() {
            return None;
        }
        let index = self.random.below(self.deck.len());
        Some(self.deck.swap_remove(index))
    }

    fn strike(&mut self, apart: &mut Apart, victim: Victim) {
        let struck = match victim {
            Victim::Agent => {
                assert_runners_are_seen(apart);
                match self.random.below(3) {
                    0 => drop(self.kill_amid_compilation(apart)),
                    1 => self.kill_amid_starts(apart),
                    _ => {
                        // What it has left behind must end by itself after the next one has started, too.
                        apart.kill_node();
                        apart.start_node();
                    }
                }
                true
            }
            Victim::Runner => {
                let runners = of_role(apart, "runner");
                !runners.is_empty() && kill_nine(runners[self.random.below(runners.len())])
            }
            Victim::Compiler => self.meet_compiler(apart).is_some_and(kill_nine),
        };
        if struck {
            *self.kills.entry(victim).or_default() += 1;
        }
    }

    /// Pushes an image that nobody has compiled, creates pods of it and answers the compiler that they need, if it was
    /// not too quick to be met.
    fn meet_compiler(&mut self, apart: &Apart) -> Option<u32> {
        self.images += 1;
        let image = format!("toolbox:new-{}", self.images);
        let file = apart.node_dir().with_file_name(format!("new-{}.wasm", self.images));
        let text = [self.random.below(usize::MAX).to_le_bytes(), self.images.to_le_bytes()].concat();
        fs::write(&file, another_module(&text)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        apart.push(&file, &image);
        let objects = [Kind::Steady, Kind::Job].map(|kind| self.one(kind, &image));
        apply(&apart.kubectl(), objects.into());
        let deadline = Instant::now() + COMPILER_WITHIN;
        while Instant::now() < deadline {
            if let Some(compiler) = of_role(apart, "compile").first() {
                return Some(*compiler);
            }
            std::thread::yield_now();
        }
        None
    }
}

fn apply(kubectl: &Kubectl, objects: Vec<Value>) {
    let mut by_namespace: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for object in objects {
        by_namespace
            .entry(object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned())
            .or_default()
            .push(object);
    }
    for (namespace, objects) in by_namespace {
        pods::apply(kubectl, &namespace, &objects);
    }
}

/// The toolbox with a custom section: the same code, another digest.
fn another_module(text: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"storm";
    let mut bytes = fs::read(guest("toolbox.wasm")).unwrap_or_else(|error| panic!("the toolbox: {error}"));
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("below one LEB128 byte");
    let body = [&[length(NAME)], NAME, text].concat();
    bytes.extend([0, length(&body)]);
    bytes.extend(body);
    bytes
}

fn of_role(apart: &Apart, role: &str) -> Vec<u32> {
    let is_role = |pid: &u32| processes::command_line(*pid).get(1).is_some_and(|word| word == role);
    apart.node_children().into_iter().filter(is_role).collect()
}

/// Whether there was such a process.
fn kill_nine(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok())
}

/// What looks for strays would see the runners that there are.
fn assert_runners_are_seen(apart: &Apart) {
    for runner in of_role(apart, "runner") {
        let seen = processes::works_below(runner, &apart.node_dir());
        assert!(
            seen || processes::command_line(runner).is_empty(),
            "the runner {runner} would not be found as a stray"
        );
    }
}

/// Nothing runs in the node's directory but the agent that there is and its descendants.
///
/// # Panics
/// When something does, and does not end.
pub fn assert_no_strays(apart: &Apart) {
    eventually("the end of a dead agent's processes", || {
        let strays = apart.strays();
        if strays.is_empty() { Ok(()) } else { Err(format!("{strays:?}")) }
    });
}
