//! HTTP components: a container whose guest answers requests, an instance for each.
//!
//! Nothing a client does may hold more than its share: connections, requests under way and waiting, heads and buffers
//! have bounds, and who neither sends nor takes anything for a while is given up. Bodies are passed on as they come and
//! may be of any length.

mod body;
mod gate;
mod instance;
mod patience;
mod server;

pub(crate) use gate::Room;
pub(crate) use server::Server;
