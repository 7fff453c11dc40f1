//! A sidecar: rewrites the file that the web server beside it serves, and fetches it back over `localhost`.
//!
//! Usage: `rewriter PORT FILE SECONDS`. The file is replaced by renaming, so that nobody reads half of it.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::ExitCode,
    thread,
    time::Duration,
};

/// Longest answer that is looked at, in bytes.
const ANSWER_LENGTH_MAX: u64 = 64 << 10;

fn main() -> ExitCode {
    let arguments = env::args().skip(1).collect::<Vec<_>>();
    let parsed = match arguments.as_slice() {
        [port, file, seconds] => port.parse::<u16>().ok().zip(seconds.parse().ok()).map(|found| (found, file)),
        _ => None,
    };
    let Some(((port, seconds), file)) = parsed else {
        eprintln!("usage: rewriter PORT FILE SECONDS");
        return ExitCode::from(2);
    };
    let name = env::var("POD_NAME").unwrap_or_else(|_| "nobody".to_owned());
    for edition in 1_u64.. {
        let text = format!("edition {edition}, written beside {name}\n");
        if let Err(error) = replace(Path::new(file), &text) {
            eprintln!("rewriter: {file}: {error}");
            return ExitCode::FAILURE;
        }
        match fetch(port) {
            Ok(answer) if answer == text => print!("localhost serves {answer}"),
            Ok(answer) => print!("localhost serves something else: {answer}"),
            Err(error) => println!("localhost: {error}"),
        }
        thread::sleep(Duration::from_secs(seconds));
    }
    ExitCode::SUCCESS
}

fn replace(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, file)
}

/// The body of the answer to `GET /`.
fn fetch(port: u16) -> io::Result<String> {
    let mut server = TcpStream::connect(("localhost", port))?;
    write!(server, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    server.take(ANSWER_LENGTH_MAX).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}
