//! What the owner task of a pod needs of probes and hooks. Who probes and who runs hooks is behind [`Checks`], so that the
//! life of a pod is tested without them. Nothing here decides what a verdict means.

use crate::{
    context::Context,
    pod::{
        hooks::{self, Hook, HookFailure},
        probes::{self, Verdict},
        subject::Subject,
    },
};
use async_trait::async_trait;
use std::{any::Any, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// See the module.
#[async_trait]
pub(crate) trait Checks: Send + Sync + 'static {
    /// Probes a run from now on, by all probes of its container, and holds liveness and readiness back until startup has
    /// succeeded. Dropping what it answers ends that.
    fn probe(
        &self,
        context: &Arc<Context>,
        subject: Subject,
        said: mpsc::Sender<Verdict>,
    ) -> Box<dyn Any + Send + Sync>;

    /// Runs a hook to its end.
    ///
    /// # Errors
    /// When it fails, or takes longer than `limit`.
    async fn hook(
        &self,
        context: &Arc<Context>,
        subject: &Subject,
        hook: Hook,
        limit: Duration,
    ) -> Result<(), HookFailure>;
}

/// Over the pod's network and its runner.
pub(crate) struct Real;

#[async_trait]
impl Checks for Real {
    fn probe(
        &self,
        context: &Arc<Context>,
        subject: Subject,
        said: mpsc::Sender<Verdict>,
    ) -> Box<dyn Any + Send + Sync> {
        Box::new(probes::start(context, subject, said))
    }

    async fn hook(
        &self,
        context: &Arc<Context>,
        subject: &Subject,
        hook: Hook,
        limit: Duration,
    ) -> Result<(), HookFailure> {
        hooks::run(context, subject, hook, limit).await
    }
}
