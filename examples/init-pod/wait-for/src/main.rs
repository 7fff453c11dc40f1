//! An init container's job: waits until a service has a name in the cluster.
//!
//! Usage: `wait-for NAME`

use std::{env, net::ToSocketAddrs, process::ExitCode, thread, time::Duration};

fn main() -> ExitCode {
    let Some(name) = env::args().nth(1) else {
        eprintln!("usage: wait-for NAME");
        return ExitCode::from(2);
    };
    loop {
        // Only the address is wanted; the port is there because the standard library asks for one.
        let address = (name.as_str(), 0).to_socket_addrs().ok().and_then(|mut found| found.next());
        if let Some(address) = address {
            println!("{name} is at {}", address.ip());
            return ExitCode::SUCCESS;
        }
        println!("waiting for {name}");
        thread::sleep(Duration::from_secs(1));
    }
}
