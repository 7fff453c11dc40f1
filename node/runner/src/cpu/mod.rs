//! Who computes, when, and for how long: limits, weights and turns of the containers in this runner.
//!
//! ```text
//!   wants to compute ── limit used up ──▶ paused ── refilled ──┐
//!         │                                                     │
//!         ▼                                                     ▼
//!   waits in line, the least served by weight first ──▶ has a turn: computes until it waits for something or a tick ends
//!         ▲                                                                  │ what it used is charged
//!         └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! There are as many turns at once as processors, and more threads than that: one is always left for what is not a guest,
//! so that timers, connections and kills are served while all turns are taken. A turn that lasts longer than a tick
//! (a host call that copies much cannot be interrupted) no longer counts, and others get theirs beside it.
//!
//! Turns are weighed by requests within the runner. Against other runners the kernel weighs threads: who computes more
//! than was requested for it stands back as far as the agent says (`niceness`).
//!
//! What must never happen here: a guest computes without being measured; one that waits for its limit burns time; one
//! that wants to compute never does; an idle runner wakes up.

mod account;
mod bucket;
mod clock;
mod drive;
mod line;
mod niceness;
mod overhead;
mod ticker;

pub(crate) use account::Account;
pub(crate) use drive::{Cpu, Paced, Threads, interrupted};
pub(crate) use niceness::{SERVING, set as set_niceness};
