//! Outside names by the machine's resolver. It blocks and takes no interruption, so what runs at one time is bounded, for
//! each pod and in all, and a look-up holds its place until the machine has answered, also when nobody waits any more.

use super::{bounds::Bound, machine::Machine, pods::Pod, shares::Shares};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Look-ups of all pods under way: each holds a thread.
const RUNNING_MAX: usize = 32;
/// Longest wait for one name.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long addresses are kept. The machine's resolver does not tell how long they are good for.
const KEPT: Duration = Duration::from_secs(10);
/// How long it is kept that there is no such name.
const ABSENCE_KEPT: Duration = Duration::from_secs(3);
/// Names in the cache.
const CACHED_MAX: usize = 1024;
/// Addresses of one name.
const ADDRESSES_MAX: usize = 64;

/// Why an outside name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookUpFailure {
    /// There is no such name.
    NoName,
    /// Nobody could say.
    Failed,
    /// Too much is being looked up.
    Over(Bound),
}

struct Cached {
    until: Instant,
    result: Result<Vec<IpAddr>, LookUpFailure>,
}

pub(crate) struct Resolver {
    machine: Arc<dyn Machine>,
    running: Arc<Shares>,
    cache: Arc<Mutex<HashMap<String, Cached>>>,
}

impl Resolver {
    pub(crate) fn new(machine: Arc<dyn Machine>) -> Self {
        Self { machine, running: Shares::new(RUNNING_MAX), cache: Arc::default() }
    }

    /// All addresses of a complete name.
    pub(crate) async fn look_up(&self, pod: &Pod, name: &str) -> Result<Vec<IpAddr>, LookUpFailure> {
        if let Some(cached) = self.cache.lock().get(name).filter(|one| Instant::now() < one.until) {
            return cached.result.clone();
        }
        let of_pod = pod.budget.look_up().map_err(LookUpFailure::Over)?;
        tokio::time::timeout(LOOK_UP_TIMEOUT, async {
            let of_all = self.running.take(pod.uid()).await;
            let (machine, cache, name) = (Arc::clone(&self.machine), Arc::clone(&self.cache), name.to_owned());
            let (answer, answered) = oneshot::channel();
            // A thread of its own: the runtime's would hold up the end of the process until the machine has answered.
            let thread = thread::Builder::new().name("look-up".to_owned()).spawn(move || {
                let result = result_of(machine.look_up(&name));
                remember(&mut cache.lock(), name, &result, Instant::now());
                drop((of_pod, of_all));
                drop(answer.send(result));
            });
            thread.map_err(|_| LookUpFailure::Failed)?;
            answered.await.unwrap_or(Err(LookUpFailure::Failed))
        })
        .await
        .unwrap_or(Err(LookUpFailure::Failed))
    }
}

fn result_of(answer: io::Result<Vec<IpAddr>>) -> Result<Vec<IpAddr>, LookUpFailure> {
    match answer {
        Ok(found) => {
            let mut addresses: Vec<IpAddr> = Vec::new();
            // One for each kind of socket is what the resolver gives.
            for address in found {
                if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Ok(addresses)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LookUpFailure::NoName),
        Err(_) => Err(LookUpFailure::Failed),
    }
}

fn remember(
    cache: &mut HashMap<String, Cached>,
    name: String,
    result: &Result<Vec<IpAddr>, LookUpFailure>,
    now: Instant,
) {
    let kept = match result {
        Ok(_) => KEPT,
        Err(LookUpFailure::NoName) => ABSENCE_KEPT,
        Err(_) => return,
    };
    if cache.len() >= CACHED_MAX {
        cache.retain(|_, one| now < one.until);
    }
    if cache.len() < CACHED_MAX {
        cache.insert(name, Cached { until: now + kept, result: result.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded_and_forgets() {
        let (now, mut cache) = (Instant::now(), HashMap::new());
        for number in 0..CACHED_MAX * 2 {
            remember(&mut cache, number.to_string(), &Ok(Vec::new()), now);
        }
        assert_eq!(cache.len(), CACHED_MAX);
        remember(&mut cache, "failed".to_owned(), &Err(LookUpFailure::Failed), now + KEPT);
        remember(&mut cache, "none".to_owned(), &Err(LookUpFailure::NoName), now + KEPT);
        assert_eq!(cache.keys().collect::<Vec<_>>(), ["none"]);
    }

    #[test]
    fn an_answer_has_each_address_once() {
        let address = |last| IpAddr::from([203, 0, 113, last]);
        let answer = result_of(Ok(vec![address(1), address(1), address(2), address(1)]));
        assert_eq!(answer, Ok(vec![address(1), address(2)]));
        assert_eq!(result_of(Ok((0..=255).map(address).collect())).unwrap().len(), ADDRESSES_MAX);
    }
}
