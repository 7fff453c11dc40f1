//! Carries connections to a server and counts the bytes of TCP's payload, TLS included.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// What passed.
#[derive(Default)]
pub struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
}

impl Counts {
    /// Bytes to the server, bytes from it, connections.
    pub fn read(&self) -> [u64; 3] {
        [&self.up, &self.down, &self.connections].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Listens on an address of its own, and carries for as long as the bench runs.
pub fn start(server: SocketAddr) -> (SocketAddr, Arc<Counts>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let counts = Arc::new(Counts::default());
    let counted = Arc::clone(&counts);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(upstream) = TcpStream::connect(server) else { continue };
            counted.connections.fetch_add(1, Ordering::Relaxed);
            for stream in [&client, &upstream] {
                stream.set_nodelay(true).expect("no delay");
            }
            let ends = (client.try_clone().expect("a clone"), upstream.try_clone().expect("a clone"));
            let (up, down) = (Arc::clone(&counted), Arc::clone(&counted));
            thread::spawn(move || carry(client, upstream, &up.up));
            thread::spawn(move || carry(ends.1, ends.0, &down.down));
        }
    });
    (address, counts)
}

fn carry(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The other direction may have ended both already.
    drop(to.shutdown(Shutdown::Write));
}
