//! Two hosts with an Ethernet cable between them: network namespaces without names, which go with this process.
//! It must never touch the machine's own network.

use nix::sched::{CloneFlags, setns, unshare};
use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    process::{self, Command},
    sync::Arc,
    thread,
};
use tokio::runtime::{Builder, Runtime};

/// What fits into a packet on the cable, in bytes.
const MTU: &str = "1500";
/// The hosts' addresses.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

/// Where one side runs, and its address.
pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    pub(crate) address: IpAddr,
}

impl Host {
    /// This machine.
    pub(crate) fn here() -> io::Result<Self> {
        Ok(Self { runtime: Runtime::new()?, address: Ipv4Addr::LOCALHOST.into() })
    }

    fn in_namespace(namespace: Arc<File>, address: Ipv4Addr) -> io::Result<Self> {
        let enter = move || setns(&*namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = Builder::new_multi_thread().enable_all().on_thread_start(enter).build()?;
        Ok(Self { runtime, address: address.into() })
    }
}

/// Two hosts, as far from each other as a cable is long.
///
/// # Errors
/// When this may not make network namespaces, or there is no `ip`.
pub(crate) fn hosts() -> io::Result<[Host; 2]> {
    let (one, two) = (namespace()?, namespace()?);
    let path = format!("/proc/{}/fd/{}", process::id(), two.as_raw_fd());
    ip(&one, &format!("link add cable mtu {MTU} type veth peer name cable mtu {MTU} netns {path}"))?;
    for (namespace, address) in [&one, &two].into_iter().zip(ADDRESSES) {
        ip(namespace, &format!("address add {address}/24 dev cable"))?;
        ip(namespace, "link set cable up")?;
    }
    Ok([Host::in_namespace(one, ADDRESSES[0])?, Host::in_namespace(two, ADDRESSES[1])?])
}

fn namespace() -> io::Result<Arc<File>> {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net").map(Arc::new)
    });
    made.join().unwrap()
}

fn ip(namespace: &Arc<File>, words: &str) -> io::Result<()> {
    let run = || {
        setns(&**namespace, CloneFlags::CLONE_NEWNET)?;
        Command::new("ip").args(words.split(' ')).status()
    };
    let status = thread::scope(|scope| scope.spawn(run).join().unwrap())?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {words}: {status}"))) }
}
