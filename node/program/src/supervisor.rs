//! Tells a service manager how the process is, in systemd's way: lines of `KEY=VALUE` in a datagram to the socket that
//! `NOTIFY_SOCKET` names (`sd_notify(3)`). Where there is none, nothing is said.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process,
    time::Duration,
};
use tracing::warn;

/// See the module.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear that the process lives.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that started this process, if there is one.
    #[must_use]
    pub fn of_environment() -> Self {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let socket = connected(address.as_encoded_bytes())
            .inspect_err(|error| warn!(%error, ?address, "the service manager cannot be told anything"))
            .ok();
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        // Twice as often as needed: one that is late is none that is missing.
        let watchdog = number("WATCHDOG_USEC").filter(|micros| meant && *micros > 0).map(Duration::from_micros);
        Self { socket, watchdog: watchdog.map(|most| most / 2) }
    }

    /// The process does its work.
    pub fn ready(&self) {
        self.say("READY=1\nSTATUS=Running pods");
    }

    /// The process is about to end, within this time.
    pub fn stopping(&self, within: Duration) {
        self.say(&format!("STOPPING=1\nSTATUS=Ending pods\nEXTEND_TIMEOUT_USEC={}", within.as_micros()));
    }

    /// Says again and again that the process lives; never returns. What runs it has to be what does the work, so that a
    /// process that hangs is silent.
    pub async fn watch(&self) {
        let Some(interval) = self.watchdog.filter(|_| self.socket.is_some()) else {
            return std::future::pending().await;
        };
        loop {
            self.say("WATCHDOG=1");
            tokio::time::sleep(interval).await;
        }
    }

    fn say(&self, text: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(text.as_bytes())
        {
            warn!(%error, text, "the service manager does not hear");
        }
    }
}

/// A socket to that address: a path, or a name without a file behind `@`.
fn connected(address: &[u8]) -> io::Result<UnixDatagram> {
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::str::from_utf8(address).map_err(io::Error::other)?)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A service manager that does not read must not stop the node.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_manager_hears_of_the_beginning_the_life_and_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("coracle-supervisor-test-{}", process::id());
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(), format!("@{name}")),
        ];
        for (manager, address) in sockets {
            manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let watchdog = Some(Duration::from_millis(5));
            let supervisor = Supervisor { socket: Some(connected(address.as_bytes()).unwrap()), watchdog };
            supervisor.ready();
            assert!(heard(&manager).starts_with("READY=1\n"));
            tokio::time::timeout(Duration::from_millis(50), supervisor.watch()).await.unwrap_err();
            assert_eq!((heard(&manager), heard(&manager)), ("WATCHDOG=1".to_owned(), "WATCHDOG=1".to_owned()));
            supervisor.stopping(Duration::from_secs(2));
            let rest = std::iter::repeat_with(|| heard(&manager)).find(|text| text != "WATCHDOG=1").unwrap();
            assert!(rest.starts_with("STOPPING=1\n") && rest.ends_with("EXTEND_TIMEOUT_USEC=2000000"), "{rest}");
        }
        assert!(connected(b"/nowhere/at/all").is_err());
        Supervisor::default().ready();
    }
}
