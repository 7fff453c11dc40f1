//! Pods on this node: the pure parts ([`spec`], [`state`], [`status`], [`env`]) and what moves them.

pub(crate) mod admission;
pub(crate) mod attempt;
pub(crate) mod checks;
pub(crate) mod env;
pub(crate) mod hooks;
pub(crate) mod http_get;
pub(crate) mod manager;
pub(crate) mod message;
pub(crate) mod probes;
pub(crate) mod pull_secrets;
pub(crate) mod reach;
pub(crate) mod restore;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod subject;
pub(crate) mod termination;
pub(crate) mod volumes;
pub(crate) mod worker;
