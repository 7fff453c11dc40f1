//! Speaks HTTP for a program that knows only files: each request becomes a file in a directory, and the file that the
//! program writes in answer becomes the response.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long the program may take for one answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

/// `DIRECTORY/N.request` holds the path that was asked for; `DIRECTORY/N.answer` is sent back as it is.
pub fn front(port: u16, directory: &str) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("in front of {directory}");
    for number in 0_u64.. {
        let Ok((client, _)) = listener.accept() else { break };
        if let Err(error) = pass_on(&client, Path::new(directory), number) {
            println!("front: {}", error.kind());
        }
    }
    Ok(())
}

fn pass_on(mut client: &TcpStream, directory: &Path, number: u64) -> io::Result<()> {
    let mut head = BufReader::new(client);
    let (mut request, mut line) = (String::new(), String::new());
    head.read_line(&mut request)?;
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = request.split(' ').nth(1).ok_or(io::ErrorKind::InvalidData)?;
    // Renamed into place: the program never sees half of it.
    let (new, asked) = (directory.join(format!("{number}.new")), directory.join(format!("{number}.request")));
    fs::write(&new, path)?;
    fs::rename(&new, &asked)?;
    let answer = directory.join(format!("{number}.answer"));
    let begun = Instant::now();
    let body = loop {
        match fs::read(&answer) {
            Ok(body) => break body,
            Err(_) if begun.elapsed() < ANSWER_WAIT => thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    };
    fs::remove_file(&answer)?;
    write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    client.write_all(&body)
}
