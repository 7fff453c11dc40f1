//! The gRPC health check, by hand: services `""` and `up` serve, `down` does not, and there is no other.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

/// What comes before a message: that it is not compressed, and its length.
const PREFIX: usize = 5;
const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;

/// `grpc.health.v1.Health/Check`.
pub(crate) fn check(request: IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().unwrap();
    let stream = body.stream().unwrap();
    let mut bytes = Vec::new();
    while let Ok(more) = stream.blocking_read(1 << 10) {
        bytes.extend(more);
    }
    // One field: a string of less than 128 bytes.
    let service = bytes.get(PREFIX + 2..).unwrap_or_default();
    let answer: &[u8] = match service {
        b"" | b"up" => &[0, 0, 0, 0, 2, 8, SERVING],
        b"down" => &[0, 0, 0, 0, 2, 8, NOT_SERVING],
        _ => &[],
    };
    let headers = Fields::new();
    headers.set("content-type", &[b"application/grpc".to_vec()]).unwrap();
    let response = OutgoingResponse::new(headers);
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().unwrap();
    if !answer.is_empty() {
        stream.blocking_write_and_flush(answer).unwrap();
    }
    drop(stream);
    let trailers = Fields::new();
    let status = if answer.is_empty() { b"5".to_vec() } else { b"0".to_vec() };
    trailers.set("grpc-status", &[status]).unwrap();
    OutgoingBody::finish(body, Some(trailers)).unwrap();
}
