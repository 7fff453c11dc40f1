//! A preview 1 module that serves on the listeners it is given: `listener COMMAND`.
//!
//! It calls preview 1 itself, so that a test sees exactly what the host says.

mod preview1;

use preview1::{Wait, accept, close, poll, read, renumber, set_nonblocking, shut_down_writing, write};
use std::{collections::BTreeMap, env};

const FIRST: i32 = 3;

fn main() {
    let words = env::args().skip(1).collect::<Vec<_>>();
    match words.first().map(String::as_str) {
        Some("describe") => describe(),
        Some("echo-one") => echo_one(listener(0)),
        Some("echo-many") => echo_many(listener(0)),
        Some("semantics") => semantics(listener(0)),
        Some("hoard") => hoard(listener(0)),
        other => panic!("no such command: {other:?}"),
    }
}

/// How many directories are open; the listeners come behind them.
fn directories() -> i32 {
    (FIRST..).take_while(|fd| preview1::is_directory(*fd)).count() as i32
}

fn listener(index: i32) -> i32 {
    FIRST + directories() + index
}

fn describe() {
    println!("LISTEN_FDS {}", env::var("LISTEN_FDS").unwrap_or_default());
    println!("directories {}", directories());
    for fd in 0..FIRST + directories() + 3 {
        match preview1::status(fd) {
            Ok((kind, flags)) => println!("{fd} type {kind} flags {flags}"),
            Err(error) => println!("{fd} error {error}"),
        }
    }
}

/// Serves one connection after the other, waiting in each call.
fn echo_one(listener: i32) {
    preview1::set_flags(listener, 0).unwrap();
    println!("ready");
    loop {
        let connection = accept(listener, false).unwrap();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match read(connection, &mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    let mut rest = &buffer[..count];
                    while !rest.is_empty() {
                        match write(connection, rest) {
                            Ok(count) => rest = &rest[count..],
                            Err(_) => break,
                        }
                    }
                }
            }
        }
        let _ = write(connection, b"bye");
        let _ = shut_down_writing(connection);
        close(connection).unwrap();
    }
}

/// Serves all connections at once and waits nowhere but in `poll_oneoff`. Ends with standard input.
fn echo_many(listener: i32) {
    println!("ready");
    let mut unsent = BTreeMap::<i32, Vec<u8>>::new();
    let (mut served, mut ticked, mut asked_to_end) = (0, false, false);
    // However fast its clients are, it has waited in vain once before it ends.
    while !(asked_to_end && ticked) {
        let mut waits = vec![Wait::Milliseconds(5)];
        if !asked_to_end {
            waits.extend([Wait::Read(0), Wait::Read(listener)]);
        }
        for (fd, bytes) in &unsent {
            waits.push(if bytes.is_empty() { Wait::Read(*fd) } else { Wait::Write(*fd) });
        }
        for event in poll(&waits).unwrap() {
            match waits[event.index] {
                Wait::Milliseconds(_) => ticked = true,
                Wait::Read(0) => asked_to_end = read(0, &mut [0; 16]) == Ok(0),
                Wait::Read(fd) if fd == listener => {
                    while let Ok(connection) = accept(listener, true) {
                        unsent.insert(connection, Vec::new());
                    }
                }
                Wait::Read(fd) => {
                    let mut buffer = vec![0; 16 << 10];
                    match read(fd, &mut buffer) {
                        Ok(0) | Err(preview1::CONNRESET) => {
                            unsent.remove(&fd);
                            served += 1;
                            close(fd).unwrap();
                        }
                        Ok(count) => {
                            buffer.truncate(count);
                            unsent.insert(fd, buffer);
                        }
                        Err(error) => assert_eq!(error, preview1::AGAIN, "ready and yet not"),
                    }
                }
                Wait::Write(fd) => {
                    let bytes = unsent.get_mut(&fd).unwrap();
                    match write(fd, bytes) {
                        Ok(count) => drop(bytes.drain(..count)),
                        Err(preview1::AGAIN) => {}
                        Err(_) => {
                            unsent.remove(&fd);
                            close(fd).unwrap();
                        }
                    }
                }
            }
        }
    }
    println!("served {served}, ticked {ticked}");
}

/// What each call says of sockets. One client must connect, send `hello` and wait.
fn semantics(listener: i32) {
    let mut buffer = [0; 16];
    preview1::set_flags(listener, 0).unwrap();
    set_nonblocking(listener).unwrap();
    let before = [
        format!("accept without a client: {:?}", accept(listener, false)),
        format!("read from a listener: {:?}", read(listener, &mut buffer)),
        format!("shut down a listener: {:?}", shut_down_writing(listener)),
        format!("seek on a listener: {:?}", preview1::seek(listener)),
        format!("accept from a file: {:?}", accept(1, false)),
        format!("accept from nothing: {:?}", accept(900, false)),
    ];
    println!("ready");
    before.iter().for_each(|line| println!("{line}"));
    let arrived = poll(&[Wait::Read(listener), Wait::Milliseconds(60_000)]).unwrap();
    println!("arrival: {:?}", arrived.iter().map(|event| (event.index, event.error)).collect::<Vec<_>>());
    let connection = accept(listener, true).unwrap();
    println!("next number: {}", connection - listener);
    println!("flags: {:?}", preview1::status(connection));
    let ready = poll(&[Wait::Read(connection), Wait::Write(connection), Wait::Read(900)]).unwrap();
    println!("of a bad number: {:?}", ready.iter().map(|event| (event.index, event.error)).collect::<Vec<_>>());
    poll(&[Wait::Read(connection)]).unwrap();
    println!("peek: {:?}", preview1::receive(connection, &mut buffer, preview1::PEEK));
    println!("receive: {:?}", preview1::receive(connection, &mut buffer, 0));
    println!("again: {:?}", read(connection, &mut buffer));
    println!("seek: {:?}", preview1::seek(connection));
    println!("bad flags: {:?}", preview1::set_flags(connection, 1));
    println!("renumber to nothing: {:?}", renumber(connection, 900));
    println!("renumber: {:?}", renumber(connection, listener));
    println!("the old number: {:?}", read(connection, &mut buffer));
    println!("write: {:?}", write(listener, b"from where the listener was"));
    println!("shut down: {:?}", shut_down_writing(listener));
    println!("write after that: {:?}", write(listener, b"more"));
    // A file may take the number that is free now.
    println!("close: {:?}", close(listener));
    println!("close again: {:?}", close(listener));
}

/// Accepts and keeps all it can get.
fn hoard(listener: i32) {
    preview1::set_flags(listener, 0).unwrap();
    println!("ready");
    let mut count = 0;
    let error = loop {
        match accept(listener, false) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    println!("{count} connections, then error {error}");
}
