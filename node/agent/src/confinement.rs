//! Whether this node can hold its guests in: what its runners say of themselves, what people read of it in the Node's
//! condition `GuestsConfined`, and whether guests run at all. A node that cannot runs none, unless its operator said so.

use coracle_runner::protocol::Confinement;
use std::sync::{Mutex, PoisonError};

/// The Node's condition.
pub(crate) const CONDITION: &str = "GuestsConfined";

/// Status, reason and message of the condition.
pub(crate) type Verdict = (bool, &'static str, String);

#[derive(Debug, Clone)]
enum Found {
    Nothing,
    Confinement(Confinement),
    Broken(String),
}

/// Lets runners have guests, or not.
#[derive(Debug)]
pub(crate) struct Gate {
    allow_unconfined: bool,
    found: Mutex<Found>,
}

impl Gate {
    pub(crate) fn new(allow_unconfined: bool) -> Self {
        Self { allow_unconfined, found: Mutex::new(Found::Nothing) }
    }

    /// A runner says what holds it in.
    ///
    /// # Errors
    /// For people, when it must not get a guest.
    pub(crate) fn admit(&self, confinement: Confinement) -> Result<(), String> {
        self.set(Found::Confinement(confinement));
        self.refusal().map_or(Ok(()), Err)
    }

    /// No runner could be started to ask.
    pub(crate) fn broken(&self, why: String) {
        self.set(Found::Broken(why));
    }

    fn set(&self, found: Found) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn found(&self) -> Found {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why no guest may run here, as far as it is known.
    pub(crate) fn refusal(&self) -> Option<String> {
        let Found::Confinement(confinement) = self.found() else { return None };
        let (_, what) = missing(confinement).filter(|_| !self.allow_unconfined)?;
        Some(format!(
            "this node cannot confine guests: {what}; its operator can let them run all the same, \
             with --allow-unconfined-guests"
        ))
    }

    /// What the Node's condition says.
    pub(crate) fn verdict(&self) -> Verdict {
        let confinement = match self.found() {
            Found::Confinement(confinement) => confinement,
            Found::Nothing => return (false, "NotTried", "no runner was started yet".to_owned()),
            Found::Broken(why) => return (false, "RunnerFailed", why),
        };
        match missing(confinement) {
            Some((reason, what)) if self.allow_unconfined => {
                (false, reason, format!("{what}; guests run all the same (--allow-unconfined-guests)"))
            }
            Some((reason, what)) => (false, reason, format!("{what}; no guests run here")),
            None => (true, "LandlockAndSeccomp", description(confinement)),
        }
    }
}

/// Reason and text of what the kernel lacks.
fn missing(confinement: Confinement) -> Option<(&'static str, &'static str)> {
    match (confinement.landlock_abi, confinement.seccomp) {
        (0, true) => Some(("NoLandlock", "the kernel has no Landlock, or it is switched off")),
        (0, false) => Some(("NoLandlockNoSeccomp", "the kernel has neither Landlock nor filters for system calls")),
        (_, false) => Some(("NoSeccomp", "the kernel has no filters for system calls (seccomp)")),
        (_, true) => None,
    }
}

fn description(confinement: Confinement) -> String {
    let by = format!("Landlock (ABI {}) and seccomp", confinement.landlock_abi);
    match (confinement.own_root, confinement.own_user) {
        (true, true) => {
            format!("each namespace's guests have a root directory and a user of their own, behind {by}")
        }
        (true, false) => format!("each namespace's guests have a root directory of their own, behind {by}"),
        (false, _) => format!(
            "guests are behind {by}, but as the node agent's own user: whoever breaks out of wasm cannot open files \
             outside the namespace's own, but sees whether they exist, their sizes and times (stat), and can set the \
             times (utimensat); a node agent that runs as root gives each namespace a root directory and a user"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Confinement = Confinement { landlock_abi: 7, seccomp: true, own_root: true, own_user: true };

    #[test]
    fn guests_run_only_where_all_holds_or_the_operator_said_so() {
        let cases = [
            (ALL, None),
            (Confinement { own_root: false, own_user: false, ..ALL }, None),
            (Confinement { landlock_abi: 0, ..ALL }, Some("NoLandlock")),
            (Confinement { seccomp: false, ..ALL }, Some("NoSeccomp")),
            (Confinement::default(), Some("NoLandlockNoSeccomp")),
        ];
        for (confinement, lacks) in cases {
            for allowed in [false, true] {
                let gate = Gate::new(allowed);
                assert_eq!(gate.refusal(), None, "nothing is known yet");
                assert_eq!(gate.admit(confinement).is_ok(), allowed || lacks.is_none(), "{confinement:?} {allowed}");
                assert_eq!(gate.refusal().is_none(), allowed || lacks.is_none());
                let (status, reason, _) = gate.verdict();
                assert_eq!((status, reason), (lacks.is_none(), lacks.unwrap_or("LandlockAndSeccomp")));
            }
        }
    }

    #[test]
    fn the_condition_says_what_does_not_hold() {
        let message = |allowed, confinement| {
            let gate = Gate::new(allowed);
            let _ = gate.admit(confinement);
            gate.verdict().2
        };
        assert!(message(false, ALL).contains("ABI 7"));
        assert!(message(false, Confinement { own_root: false, own_user: false, ..ALL }).contains("utimensat"));
        assert!(message(false, Confinement { landlock_abi: 0, ..ALL }).contains("no guests run here"));
        assert!(message(true, Confinement { landlock_abi: 0, ..ALL }).contains("--allow-unconfined-guests"));
        let gate = Gate::new(false);
        assert_eq!(gate.verdict().1, "NotTried");
        gate.broken("no program".to_owned());
        assert_eq!(gate.verdict(), (false, "RunnerFailed", "no program".to_owned()));
    }
}
