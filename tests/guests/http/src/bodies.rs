//! Bodies of all sizes, in both directions.

use std::{io::Write, thread, time::Duration};
use wasip2::{
    http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam},
    io::streams::StreamError,
};

const CHUNK: usize = 64 << 10;

/// Answers with these bytes and their length.
pub(crate) fn whole(out: ResponseOutparam, status: u16, bytes: &[u8]) {
    let headers = Fields::new();
    headers.set("content-length", &[bytes.len().to_string().into_bytes()]).unwrap();
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).unwrap();
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().unwrap();
    let _ = stream.write_all(bytes).and_then(|()| Write::flush(&mut stream));
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// A response whose body begins, and that nobody finishes.
pub(crate) fn begin(out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().unwrap();
    stream.write_all(b"it begins well").unwrap();
    stream.flush().unwrap();
    thread::sleep(Duration::from_millis(20));
    std::mem::forget((stream, body));
}

/// Sends back what arrives, as it arrives.
pub(crate) fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let outgoing = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let incoming = request.consume().unwrap();
    let input = incoming.stream().unwrap();
    let mut output = outgoing.write().unwrap();
    loop {
        match input.blocking_read(CHUNK as u64) {
            Ok(bytes) => output.write_all(&bytes).and_then(|()| Write::flush(&mut output)).unwrap(),
            Err(StreamError::Closed) => break,
            Err(error) => panic!("the request broke: {error:?}"),
        }
    }
    drop(output);
    OutgoingBody::finish(outgoing, None).unwrap();
}

/// How many bytes arrive.
pub(crate) fn length(request: IncomingRequest) -> Result<u64, String> {
    let incoming = request.consume().unwrap();
    let input = incoming.stream().unwrap();
    let mut total = 0;
    loop {
        match input.blocking_read(CHUNK as u64) {
            Ok(bytes) => total += bytes.len() as u64,
            Err(StreamError::Closed) => return Ok(total),
            Err(error) => return Err(format!("the request broke: {error:?}")),
        }
    }
}

/// So many bytes, without saying how many beforehand.
pub(crate) fn big(out: ResponseOutparam, mut bytes: usize) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().unwrap();
    let chunk = vec![b'x'; CHUNK];
    while bytes > 0 {
        let count = bytes.min(CHUNK);
        if stream.write_all(&chunk[..count]).is_err() {
            println!("the client has gone");
            return;
        }
        bytes -= count;
    }
    stream.flush().unwrap();
    drop(stream);
    OutgoingBody::finish(body, None).unwrap();
}

/// A line now and then.
pub(crate) fn slow(out: ResponseOutparam, chunks: u32, pause: Duration) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().unwrap();
    for chunk in 0..chunks {
        if chunk > 0 {
            thread::sleep(pause);
        }
        stream.write_all(format!("line {chunk}\n").as_bytes()).unwrap();
        stream.flush().unwrap();
    }
    drop(stream);
    OutgoingBody::finish(body, None).unwrap();
}
