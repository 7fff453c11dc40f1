//! What a guest finds around it: one file per capability, all of them linked in [`linker`].
//!
//! Nothing here opens a socket of this machine: they are the pod network's, for components ([`sockets`]), modules
//! ([`preview1`]) and HTTP requests ([`outgoing`]). Names are answered by the agent ([`names`]), files are below the
//! guest's mounts ([`files`]) and have a limit ([`file_limits`]), standard streams are frames and a stop signal
//! ([`stdin`], [`stdio`]), and what all this takes counts as the container's memory ([`memory`], [`resources`],
//! [`file_streams`]) or is small ([`paths`]).

pub(crate) mod file_limits;
pub(crate) mod file_streams;
pub(crate) mod files;
pub(crate) mod linker;
pub(crate) mod memory;
pub(crate) mod names;
pub(crate) mod outgoing;
pub(crate) mod paced_body;
pub(crate) mod paths;
pub(crate) mod preview1;
pub(crate) mod resources;
pub(crate) mod sockets;
pub(crate) mod special_files;
pub(crate) mod state;
pub(crate) mod stdin;
pub(crate) mod stdio;
pub(crate) mod trust;
