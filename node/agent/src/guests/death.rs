//! What the death of a runner means for the containers that it ran. Pure.

use super::KILLED;
use coracle_runner::{
    process::RunnerEnd,
    protocol::{Exit, ExitCause},
};

/// Most characters of a runner's last words in a container's status.
const LAST_WORDS_MAX: usize = 400;
/// Exit codes of what a signal ended begin here.
const SIGNALS: i32 = 128;
/// The signal for a system call that is not on the runner's list.
const SIGSYS: i32 = 31;

/// How each of its containers ended: by the runner's signal, and with what happened in words. `why` is what the agent
/// killed it for, if it did.
pub(super) fn exit(namespace: &str, end: &RunnerEnd, why: Option<&str>) -> Exit {
    let subject = format!("the runner process of namespace {namespace}");
    let (code, message) = match (why, end.signal, end.code) {
        (Some(why), ..) => (KILLED, format!("{subject} was killed by the node agent: {why}")),
        (None, Some(SIGSYS), _) => (
            SIGNALS + SIGSYS,
            format!("{subject} was killed (signal {SIGSYS}) for a system call that it must not make"),
        ),
        (None, Some(signal), _) => (SIGNALS + signal, format!("{subject} was killed (signal {signal})")),
        (None, None, Some(code)) => (KILLED, format!("{subject} ended (exit code {code})")),
        (None, None, None) => (KILLED, format!("{subject} ended unexpectedly")),
    };
    let words: String = end.last_words.lines().last().unwrap_or_default().trim().chars().take(LAST_WORDS_MAX).collect();
    let message = if words.is_empty() || why.is_some() { message } else { format!("{message}: {words}") };
    Exit { code, cause: ExitCause::Killed, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_says_how_it_came() {
        let end = |signal, code, words: &str| RunnerEnd { signal, code, last_words: words.to_owned() };
        for (end, why, code, message) in [
            (end(Some(9), None, ""), None, 137, "was killed (signal 9)"),
            (end(Some(11), None, ""), None, 139, "was killed (signal 11)"),
            (
                end(Some(6), None, "x\nmemory allocation failed\n"),
                None,
                134,
                "was killed (signal 6): memory allocation failed",
            ),
            (end(Some(31), None, ""), None, 159, "was killed (signal 31) for a system call that it must not make"),
            (end(None, Some(1), "no stream"), None, 137, "ended (exit code 1): no stream"),
            (end(None, None, ""), None, 137, "ended unexpectedly"),
            (end(Some(9), None, "words"), Some("it lied"), 137, "was killed by the node agent: it lied"),
        ] {
            let exit = exit("team-a", &end, why);
            assert_eq!((exit.code, exit.cause), (code, ExitCause::Killed));
            assert_eq!(exit.message, format!("the runner process of namespace team-a {message}"));
        }
        let long = exit("n", &end(Some(9), None, &"x".repeat(5000)), None);
        assert!(long.message.len() < 500);
    }
}
