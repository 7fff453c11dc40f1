//! How a pod's runs come to an end: asked first, ended after their grace, given up on when even that is not reported.

use super::{Ending, Work, Worker};
use crate::{
    clock,
    events::Severity,
    guests::{KILL_PATIENCE, KILLED, RunEvent},
    pod::spec,
};
use coracle_objects::meta;
use coracle_runner::protocol::{Exit, ExitCause, RunId};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, warn};

impl Worker {
    pub(super) fn replace_image(&mut self, index: usize, image: &str) {
        let Some(run) = self.state.image_changed(index, image) else { return };
        let name = self.state.containers[index].name.clone();
        self.tell(
            index,
            Severity::Normal,
            "Killing",
            &format!("Container {name} definition changed, will be restarted"),
        );
        let (context, namespace_uid, grace) =
            (self.context.clone(), self.namespace_uid.clone(), spec::grace(&self.pod));
        tokio::spawn(async move {
            context.guests.stop(&namespace_uid, &run).await;
            context.pace.sleep(grace).await;
            context.guests.kill(&namespace_uid, &run).await;
        });
    }

    /// Starts nothing any more and asks everything to end within `grace`.
    pub(super) fn end(&mut self, ending: Ending, grace: Duration) {
        debug!(pod = meta::name(&self.pod), ?ending, ?grace, "ending a pod");
        self.ending = Some(ending);
        self.state.stopping = true;
        let kill_at = self.context.pace.now() + grace;
        self.kill_at = Some(self.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
        for (work, handle) in self.works.values() {
            // What is being launched ends like any other run.
            if !matches!(work, Work::Launch(_)) {
                handle.abort();
            }
        }
        for index in 0..self.state.containers.len() {
            let container = &self.state.containers[index];
            if let Some(run) = container.run.clone() {
                let message = format!("Stopping container {}", container.name);
                self.tell(index, Severity::Normal, "Killing", &message);
                self.stop(run);
            }
        }
    }

    pub(super) fn stop(&self, run: RunId) {
        let (context, namespace_uid) = (self.context.clone(), self.namespace_uid.clone());
        tokio::spawn(async move { context.guests.stop(&namespace_uid, &run).await });
    }

    pub(super) fn kill(&self, run: RunId) {
        let (context, namespace_uid) = (self.context.clone(), self.namespace_uid.clone());
        tokio::spawn(async move { context.guests.kill(&namespace_uid, &run).await });
    }

    /// `spec.activeDeadlineSeconds`.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let seconds = self.pod["spec"]["activeDeadlineSeconds"].as_u64()?;
        if self.frozen || self.ending.is_some() || self.state.is_finished() {
            return None;
        }
        let active = clock::now() - clock::parse(&self.state.start_time)?;
        let left = Duration::from_secs(seconds).saturating_sub(active.try_into().unwrap_or_default());
        if !left.is_zero() {
            return Some(now + left);
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.context.recorder.record(&self.pod, "", Severity::Normal, "DeadlineExceeded", &message);
        self.state.failed = Some(("DeadlineExceeded".to_owned(), message));
        self.end(Ending::Failed, spec::grace(&self.pod));
        None
    }

    /// Ends what is left at the end of the grace period, and gives up on what does not even end then.
    pub(super) fn grace_over(&mut self, now: Instant) -> Option<Instant> {
        let kill_at = self.kill_at.filter(|_| self.state.is_busy())?;
        if now < kill_at {
            return Some(kill_at);
        }
        let runs: Vec<RunId> = self.state.containers.iter().filter_map(|container| container.run.clone()).collect();
        if !self.killed {
            self.killed = true;
            for run in runs {
                self.kill(run);
            }
        } else if now >= kill_at + KILL_PATIENCE {
            warn!(pod = meta::name(&self.pod), "the runner does not report the end of killed containers");
            for run in runs {
                let exit = Exit { code: KILLED, cause: ExitCause::Killed, message: String::new() };
                self.hear(&run, RunEvent::Exited(exit));
            }
            return None;
        }
        Some(kill_at + KILL_PATIENCE)
    }
}
