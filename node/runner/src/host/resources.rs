//! What a component's resources cost the runner: its files, sockets, streams, pollables, errors, HTTP messages.
//!
//! They lie in one table, which nobody asks before something is put into it. So it is looked through every few calls of
//! the guest, less often the more there is in it, and what it holds is set against the container's memory. In between,
//! a guest adds little: what a call may copy is bounded, and so is the number of resources.

use super::names::Addresses;
use crate::memory::{MemoryAccount, Reservation};
use hyper::HeaderMap;
use std::{any::Any, sync::Arc};
use wasmtime_wasi::ResourceTable;
use wasmtime_wasi_http::{
    FieldMap,
    p2::{
        bindings::http::types::{Method, Scheme},
        body::HostOutgoingBody,
        types::{HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse},
    },
};

/// Resources that a guest may have. A connection has up to six.
pub(crate) const MAX_RESOURCES: usize = 64 << 10;
/// Most that the headers of one HTTP message take. What a connection carries is less.
pub(crate) const MAX_FIELDS_BYTES: usize = 64 << 10;
/// Most that a guest writes to an HTTP body at once, and how many such pieces may be on their way.
pub(crate) const BODY_CHUNK_BYTES: usize = 16 << 10;
const BODY_CHUNKS: u64 = 3;
/// What a resource costs, whatever it is: its place in the table, and itself.
const RESOURCE_BYTES: u64 = 256;
/// What a question for a name costs, and its answer.
const LOOKUP_BYTES: u64 = 1 << 10;
/// What a header costs beside its bytes.
const HEADER_BYTES: u64 = 64;
/// Calls between two looks: so many, and one for every so many resources.
const CALLS_BETWEEN_LOOKS: usize = 64;
const RESOURCES_PER_CALL: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct ResourceMeter {
    held: Reservation,
    /// What the guest was given to begin with: arguments, environment, mounts.
    given_bytes: u64,
    calls_left: usize,
}

impl ResourceMeter {
    pub(crate) fn new(memory: &Arc<MemoryAccount>, given_bytes: u64) -> Self {
        let mut held = Reservation::none(memory);
        // One that is too large ends the container, here and below; there is nobody else to tell.
        let _ = held.resize(given_bytes);
        Self { held, given_bytes, calls_left: 0 }
    }

    /// The guest makes a call and may have put something into the table since the last one.
    pub(crate) fn look(&mut self, table: &mut ResourceTable) {
        if let Some(left) = self.calls_left.checked_sub(1) {
            self.calls_left = left;
            return;
        }
        let (mut count, mut bytes) = (0, self.given_bytes);
        for resource in table.iter_mut() {
            count += 1;
            bytes = bytes.saturating_add(RESOURCE_BYTES).saturating_add(contents(resource));
        }
        self.calls_left = CALLS_BETWEEN_LOOKS + count / RESOURCES_PER_CALL;
        let _ = self.held.resize(bytes);
    }
}

/// What a resource holds beside itself. Streams count on their own.
fn contents(resource: &(dyn Any + Send)) -> u64 {
    if let Some(fields) = resource.downcast_ref::<FieldMap>() {
        headers(fields)
    } else if resource.is::<Addresses>() {
        LOOKUP_BYTES
    } else if resource.is::<HostOutgoingBody>() {
        BODY_CHUNKS * length(BODY_CHUNK_BYTES)
    } else if let Some(request) = resource.downcast_ref::<HostOutgoingRequest>() {
        let method = match &request.method {
            Method::Other(text) => text.len(),
            _ => 0,
        };
        let scheme = match &request.scheme {
            Some(Scheme::Other(text)) => text.len(),
            _ => 0,
        };
        let texts = [&request.authority, &request.path_with_query].into_iter().flatten();
        headers(&request.headers) + length(method + scheme + texts.map(String::len).sum::<usize>())
    } else if let Some(response) = resource.downcast_ref::<HostOutgoingResponse>() {
        headers(&response.headers)
    } else if let Some(response) = resource.downcast_ref::<HostIncomingResponse>() {
        headers(&response.headers)
    } else {
        0
    }
}

fn headers(map: &HeaderMap) -> u64 {
    map.iter().map(|(name, value)| HEADER_BYTES + length(name.as_str().len() + value.len())).sum()
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use hyper::header::{HeaderName, HeaderValue};

    fn meter(limit_bytes: u64) -> (Arc<MemoryAccount>, ResourceMeter, ResourceTable) {
        let account = MemoryAccount::new(Some(limit_bytes), &Arc::default());
        let meter = ResourceMeter::new(&account, 10);
        (account, meter, ResourceTable::new())
    }

    fn calls(meter: &mut ResourceMeter, table: &mut ResourceTable, count: usize) {
        for _ in 0..count {
            meter.look(table);
        }
    }

    #[test]
    fn resources_count_some_calls_later_and_are_given_back() {
        let (account, mut meter, mut table) = meter(1 << 20);
        assert_eq!(account.used_bytes(), 10);
        let resources = (0..100).map(|_| table.push(()).unwrap()).collect::<Vec<_>>();
        calls(&mut meter, &mut table, 1);
        assert_eq!(account.used_bytes(), 10 + 100 * RESOURCE_BYTES);
        for resource in resources {
            table.delete(resource).unwrap();
        }
        calls(&mut meter, &mut table, CALLS_BETWEEN_LOOKS + 100 / RESOURCES_PER_CALL + 1);
        assert_eq!(account.used_bytes(), 10);
        drop(meter);
        assert_eq!(account.used_bytes(), 0);
    }

    #[test]
    fn headers_count_with_their_bytes() {
        let (account, mut meter, mut table) = meter(1 << 20);
        let mut fields = FieldMap::new_mutable(MAX_FIELDS_BYTES);
        let value = HeaderValue::from_bytes(&[b'x'; 1000]).unwrap();
        fields.append_raw(HeaderName::from_static("name"), value).unwrap();
        table.push(fields).unwrap();
        calls(&mut meter, &mut table, 1);
        assert_eq!(account.used_bytes(), 10 + RESOURCE_BYTES + HEADER_BYTES + 1004);
    }

    #[test]
    fn questions_for_names_count() {
        let (account, mut meter, mut table) = meter(1 << 20);
        table.push(Addresses::Known(Vec::new().into_iter())).unwrap();
        calls(&mut meter, &mut table, 1);
        assert_eq!(account.used_bytes(), 10 + RESOURCE_BYTES + LOOKUP_BYTES);
    }

    #[test]
    fn too_many_end_the_container() {
        let (account, mut meter, mut table) = meter(10 * RESOURCE_BYTES);
        for _ in 0..CALLS_BETWEEN_LOOKS + 2 {
            table.push(()).unwrap();
            meter.look(&mut table);
        }
        assert!(account.exceeded().now_or_never().is_some());
    }
}
