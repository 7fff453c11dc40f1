//! Load for benches, and who takes it: `load echo|sink|hold|control PORT`.
//!
//! Every server is one loop over blocking calls, as simple as a program can be, so that figures are about the network and
//! not about the guest. `control` does as a client what it is asked for, a line each, and answers with a line each.

mod client;
mod servers;

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
};

const USAGE: &str = "usage: load echo|sink|hold|control PORT";

fn main() -> Result<(), String> {
    let words = env::args().skip(1).collect::<Vec<_>>();
    let [role, port] = words.as_slice() else { return Err(USAGE.to_owned()) };
    let port: u16 = port.parse().map_err(|_| USAGE.to_owned())?;
    let listener = TcpListener::bind(("0.0.0.0", port)).map_err(|error| error.to_string())?;
    println!("{role} at {port}");
    let mut held = Vec::new();
    match role.as_str() {
        "echo" => servers::each(&listener, servers::echo),
        "sink" => servers::each(&listener, servers::sink),
        "hold" => servers::each(&listener, |stream| hold(stream, &mut held)),
        "control" => servers::each(&listener, |stream| control(stream, &mut held)),
        _ => return Err(USAGE.to_owned()),
    }
    Ok(())
}

fn control(stream: TcpStream, held: &mut Vec<TcpStream>) -> io::Result<()> {
    // One handle for both directions: there are no clones of it here.
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        let order = line.trim();
        let answer = client::run(order, held).unwrap_or_else(|error| format!("failed: {order}: {error}"));
        stream.get_mut().write_all(format!("{answer}\n").as_bytes())?;
        line.clear();
    }
    Ok(())
}

/// Keeps it, and says so.
fn hold(mut stream: TcpStream, held: &mut Vec<TcpStream>) -> io::Result<()> {
    stream.write_all(b"h")?;
    held.push(stream);
    Ok(())
}
