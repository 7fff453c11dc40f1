//! Carries requests to a program that knows only files: `front PORT DIRECTORY`.
//!
//! A request is the file `NUMBER.request`, whole as it came; what the program puts into `NUMBER.answer` goes back as it is.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Longest request, in bytes.
const REQUEST_LENGTH_MAX: usize = 64 << 10;
/// How long the program may take for one answer.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
const ANSWER_PAUSE: Duration = Duration::from_millis(2);

/// Serves one client after the other, until the listener is closed.
pub fn front(port: u16, directory: &str) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("in front of {directory}");
    let directory = Path::new(directory);
    for number in 0_u64.. {
        let Ok((mut client, _)) = listener.accept() else { break };
        let answer = request_of(&mut client).and_then(|request| answer_to(directory, number, &request));
        if let Err(error) = answer.and_then(|answer| client.write_all(&answer)) {
            println!("request {number}: {}", error.kind());
        }
    }
    Ok(())
}

/// Reads to the end of the head, and as many bytes behind it as that announces.
fn request_of(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let (mut request, mut chunk) = (Vec::new(), [0; 4 << 10]);
    while request.len() < whole_length(&request).unwrap_or(REQUEST_LENGTH_MAX) {
        match client.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => request.extend_from_slice(&chunk[..count]),
        }
    }
    if request.len() < REQUEST_LENGTH_MAX { Ok(request) } else { Err(io::ErrorKind::FileTooLarge.into()) }
}

/// Length of head and body, once the head is there.
fn whole_length(request: &[u8]) -> Option<usize> {
    let end = request.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    Some(end.saturating_add(length.unwrap_or(0)))
}

fn answer_to(directory: &Path, number: u64, request: &[u8]) -> io::Result<Vec<u8>> {
    let path = |kind: &str| directory.join(format!("{number}.{kind}"));
    // One may be left from a container before this one.
    let _ = fs::remove_file(path("answer"));
    // The program must not see half a request.
    fs::write(path("part"), request)?;
    fs::rename(path("part"), path("request"))?;
    let asked = Instant::now();
    loop {
        match fs::read(path("answer")) {
            Ok(answer) => return fs::remove_file(path("answer")).map(|()| answer),
            Err(_) if asked.elapsed() < ANSWER_WAIT => thread::sleep(ANSWER_PAUSE),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
