//! A cable of the test's own between a host and the bridge: every packet passes through this process, which delays,
//! reorders, doubles, damages or loses it. It knows nothing of what the packets are for.

use super::{Host, Lan, Namespace};
use crate::random::Random;
use nix::libc;
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    ffi::CString,
    fs::File,
    io::{self, ErrorKind, Read as _, Write as _},
    mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// From `linux/if_packet.h`: before each frame come the kernel's notes on checksums and pieces.
const PACKET_VNET_HDR: libc::c_int = 15;
/// From `linux/if_packet.h`: what is written is not read again.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Length of these notes (`virtio_net_hdr`), and of an Ethernet header: what comes behind both may be damaged without
/// the frame going elsewhere.
const NOTES_BYTES: usize = 10;
const ETHERNET_BYTES: usize = 14;
/// Longest frame with its notes, in bytes.
const FRAME_BYTES_MAX: usize = 1 << 17;
/// How often a reader looks whether it should end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a [`Wire`] does to each packet, both ways.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// It comes this much later,
    pub delay: Duration,
    /// and up to this much later still: later ones overtake it.
    pub jitter: Duration,
    /// So many of a thousand are lost,
    pub lost_permille: usize,
    /// come twice,
    pub doubled_permille: usize,
    /// or have a wrong bit behind the Ethernet header.
    pub damaged_permille: usize,
}

/// See the module. Dropping it joins the host to the bridge again.
#[derive(Debug)]
pub struct Wire {
    switch: Namespace,
    port: String,
    stop: Arc<AtomicBool>,
    passed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Puts one between a host and the bridge.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn between(lan: &Lan, host: &Host, weather: Weather, random: &mut Random) -> Self {
        let (switch, port) = (lan.switch().clone(), host.port.clone());
        let [far, near] = ["far", "near"].map(|end| format!("{end}-{port}"));
        for change in [
            format!("link set {port} down nomaster"),
            format!("link set {port} name {far}"),
            format!("link set {far} up"),
            // The bridge's end keeps its name: rules that name it go on to mean this host.
            format!("link add {port} type veth peer name {near}"),
            format!("link set {near} up"),
            format!("link set {port} master lan up"),
        ] {
            switch.ip(&change);
        }
        let open = |name: &str| switch.run(|| open(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let ends = [Arc::new(open(&far)), Arc::new(open(&near))];
        let mut wire = Self { switch, port, stop: Arc::default(), passed: Arc::default(), threads: Vec::new() };
        for (from, to) in [(0, 1), (1, 0)] {
            wire.carry(Arc::clone(&ends[from]), Arc::clone(&ends[to]), weather, random.fork());
        }
        wire
    }

    /// How many packets have come through, both ways.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    fn carry(&mut self, from: Arc<File>, to: Arc<File>, weather: Weather, mut random: Random) {
        let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || {
            let mut frame = vec![0; FRAME_BYTES_MAX];
            while !stop.load(Ordering::Relaxed) {
                match (&*from).read(&mut frame) {
                    Ok(length) => {
                        for late in fate(weather, &mut random, &mut frame[..length]).into_iter().flatten() {
                            // It fails when the other thread has panicked, which is told by joining it.
                            drop(sender.send((Instant::now() + late, frame[..length].to_vec())));
                        }
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    // The interface is taken away when the wire is.
                    Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                    Err(error) => panic!("a wire's end cannot be read: {error}"),
                }
            }
        }));
        let passed = Arc::clone(&self.passed);
        self.threads.push(thread::spawn(move || {
            let mut waiting: BinaryHeap<Reverse<(Instant, Vec<u8>)>> = BinaryHeap::new();
            loop {
                let now = Instant::now();
                while waiting.peek().is_some_and(|first| first.0.0 <= now) {
                    let Some(Reverse((_, frame))) = waiting.pop() else { break };
                    // What the other end does not take is lost, as on any cable.
                    if (&*to).write(&frame).is_ok() {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                let pause = waiting.peek().map_or(LOOK_INTERVAL, |first| first.0.0.saturating_duration_since(now));
                match receiver.recv_timeout(pause) {
                    Ok(entry) => waiting.push(Reverse(entry)),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }));
    }
}

/// How much later a frame comes, once or twice; it may be damaged.
fn fate(weather: Weather, random: &mut Random, frame: &mut [u8]) -> [Option<Duration>; 2] {
    let mut strikes = |permille: usize| permille > 0 && random.below(1000) < permille;
    let [lost, doubled, damaged] =
        [weather.lost_permille, weather.doubled_permille, weather.damaged_permille].map(&mut strikes);
    if lost {
        return [None, None];
    }
    if damaged && finish_checksum(frame) {
        let heads = NOTES_BYTES + ETHERNET_BYTES;
        let place = heads + random.below(frame.len() - heads);
        frame[place] ^= 1 << random.below(8);
    }
    let jitter_us = usize::try_from(weather.jitter.as_micros()).unwrap_or(usize::MAX - 1);
    let mut late = || weather.delay + Duration::from_micros(random.below(jitter_us + 1).try_into().unwrap_or(u64::MAX));
    [Some(late()), doubled.then(late)]
}

/// Does what the sender's kernel has left to hardware, so that damage can be seen by the receiver's. False when that
/// cannot be done: the frame is too short, or several packets in one.
fn finish_checksum(frame: &mut [u8]) -> bool {
    let (Some(notes), true) = (frame.first_chunk::<NOTES_BYTES>(), frame.len() > NOTES_BYTES + ETHERNET_BYTES) else {
        return false;
    };
    let [flags, pieces, _, _, _, _, start @ ..] = *notes;
    if pieces != 0 {
        return false;
    }
    if flags & 1 == 1 {
        let [start, offset] =
            [[start[0], start[1]], [start[2], start[3]]].map(|bytes| usize::from(u16::from_ne_bytes(bytes)));
        let Some(covered) = frame.get_mut(NOTES_BYTES + start..) else { return false };
        // RFC 1071; the field itself holds the sum of what is not covered.
        let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        let mut sum: u64 = covered.chunks(2).map(word).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let Some(field) = covered.get_mut(offset..offset + 2) else { return false };
        field.copy_from_slice(&(!u16::try_from(sum).unwrap_or(0)).to_be_bytes());
        frame[0] = 0;
    }
    true
}

/// A socket that reads and writes the frames of an interface of this thread's namespace.
fn open(name: &str) -> io::Result<File> {
    let name = CString::new(name)?;
    let every_protocol = libc::ETH_P_ALL.cast_unsigned().try_into().map_or(0, u16::to_be);
    let done = |outcome: libc::c_int| if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: plain system calls; the descriptor is new and nobody else's, and `name` ends with a zero byte.
    let (socket, index) = unsafe {
        let socket = OwnedFd::from_raw_fd(done(libc::socket(libc::AF_PACKET, kind, 0))?);
        (socket, libc::if_nametoindex(name.as_ptr()))
    };
    let wait = libc::timeval { tv_sec: 0, tv_usec: i64::from(LOOK_INTERVAL.subsec_micros()) };
    let descriptor = socket.as_raw_fd();
    let set = |level: libc::c_int, option: libc::c_int, value: *const libc::c_void, size: usize| {
        // SAFETY: `value` points to `size` bytes, as both callers below see to.
        done(unsafe { libc::setsockopt(descriptor, level, option, value, size.try_into().unwrap_or(0)) })
    };
    let on: libc::c_int = 1;
    for option in [PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING] {
        set(libc::SOL_PACKET, option, (&raw const on).cast(), size_of_val(&on))?;
    }
    set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const wait).cast(), size_of_val(&wait))?;
    // SAFETY: the type has only numbers, for which all bits may be zero.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET.cast_unsigned().try_into().unwrap_or(0);
    address.sll_protocol = every_protocol;
    address.sll_ifindex = index.cast_signed();
    let size = size_of_val(&address).try_into().unwrap_or(0);
    // SAFETY: the address is as long as is said.
    done(unsafe { libc::bind(descriptor, (&raw const address).cast(), size) })?;
    Ok(File::from(socket))
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a wire's thread has panicked");
            }
        }
        if thread::panicking() {
            // The whole network is about to go.
            return;
        }
        let Self { switch, port, .. } = self;
        for change in [
            format!("link del near-{port}"),
            format!("link set far-{port} down"),
            format!("link set far-{port} name {port}"),
            format!("link set {port} master lan up"),
        ] {
            switch.ip(&change);
        }
    }
}
