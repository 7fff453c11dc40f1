//! A web server in plain `std::net`: serves the files of a directory over HTTP/1.1, one request a connection.
//!
//! Usage: `server PORT DIRECTORY`. Header `X-Served-By` says which pod answers, as `NAME at IP`, from the environment
//! variables `POD_NAME` and `POD_IP`. It ends when its listener is closed, which is how a pod is asked to stop.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    process::ExitCode,
};

/// Longest request line and headers that are read, in bytes.
const HEAD_LENGTH_MAX: u64 = 16 << 10;

fn main() -> ExitCode {
    let arguments = env::args().skip(1).collect::<Vec<_>>();
    let [port, directory] = arguments.as_slice() else {
        eprintln!("usage: server PORT DIRECTORY");
        return ExitCode::from(2);
    };
    match serve(port, Path::new(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server: port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: &str, directory: &Path) -> io::Result<()> {
    let port = port.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not a port"))?;
    let variable = |name| env::var(name).unwrap_or_else(|_| "nobody".to_owned());
    let served_by = format!("{} at {}", variable("POD_NAME"), variable("POD_IP"));
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("{served_by}: serving {} on port {port}", directory.display());
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                // A client that goes away in the middle harms only itself.
                if let Err(error) = answer(&client, directory, &served_by) {
                    eprintln!("server: a request: {error}");
                }
            }
            Err(error) => {
                println!("no more requests ({error})");
                return Ok(());
            }
        }
    }
}

fn answer(mut client: &TcpStream, directory: &Path, served_by: &str) -> io::Result<()> {
    let mut head = BufReader::new(client.take(HEAD_LENGTH_MAX));
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (status, body) = match request.split(' ').collect::<Vec<_>>().as_slice() {
        ["GET", path, _] => match file_below(directory, path).map(fs::read) {
            Some(Ok(bytes)) => ("200 OK", bytes),
            _ => ("404 Not Found", b"no such file\n".to_vec()),
        },
        _ => ("405 Method Not Allowed", b"only GET is served\n".to_vec()),
    };
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\nX-Served-By: {served_by}\r\n\r\n"
    )?;
    client.write_all(&body)
}

/// The file that a request's path means; none when it leads out of the directory.
fn file_below(directory: &Path, path: &str) -> Option<PathBuf> {
    let path = path.split('?').next().unwrap_or_default().trim_start_matches('/');
    let path = Path::new(if path.is_empty() { "index.html" } else { path });
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    inside.then(|| directory.join(path))
}
