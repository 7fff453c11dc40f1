//! Requests that the guest makes itself.

use std::io::Read;
use wasip2::http::{
    outgoing_handler,
    types::{Fields, OutgoingBody, OutgoingRequest, Scheme},
};

/// GET, and what it answered: status and body.
pub(crate) fn fetch(scheme: &str, authority: &str, path: &str) -> Result<Vec<u8>, String> {
    let request = OutgoingRequest::new(Fields::new());
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    request.set_scheme(Some(&scheme)).map_err(|()| "bad scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "bad authority")?;
    request.set_path_with_query(Some(path)).map_err(|()| "bad path")?;
    let body = request.body().map_err(|()| "no body")?;
    OutgoingBody::finish(body, None).map_err(|error| format!("{error:?}"))?;
    let future = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
    future.subscribe().block();
    let response = future
        .get()
        .ok_or("nothing after waiting")?
        .map_err(|()| "taken twice")?
        .map_err(|error| format!("{error:?}"))?;
    let body = response.consume().map_err(|()| "no body")?;
    let mut bytes = format!("status {}\n", response.status()).into_bytes();
    let mut stream = body.stream().map_err(|()| "no stream")?;
    stream.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}
