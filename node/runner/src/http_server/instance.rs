//! One request, answered by an instance of its own.

use super::{
    body::{Client, Fate, ResponseBody},
    server::{MAX_SEND_BUFFER_BYTES, Server},
};
use crate::{
    endings,
    engine::WASM_STACK_BYTES,
    host::{paced_body::PacedBody, resources::BODY_CHUNK_BYTES, state::GuestState},
    memory::OutOfMemory,
};
use hyper::{Request, Response, StatusCode, body::Incoming, header::HOST};
use std::{sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::sleep};
use tokio_util::sync::CancellationToken;
use wasmtime::{PoolConcurrencyLimitError, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::{
        bindings::{
            ProxyPre,
            http::types::{ErrorCode, Scheme},
        },
        body::HyperOutgoingBody,
    },
};

/// How long a client may send nothing of a body that it has announced, while the guest reads it.
const STALLED_READ: Duration = Duration::from_mins(1);
/// How long a guest may go on after its client has gone without a whole answer. Others may wait for its place.
const ABANDONED: Duration = Duration::from_secs(1);
/// What a request counts as the container's memory from its head to the end of the answer, beside what its guest has:
/// its head may wait for an instance, and of the answer some is buffered after its guest has ended.
const REQUEST_BYTES: u64 = (MAX_SEND_BUFFER_BYTES + 3 * BODY_CHUNK_BYTES) as u64;
/// What the stack of an instance counts, but never more than this part of what the container may have: so a container has
/// no more than this many stacks that count less than they can be.
const STACK_BYTES: u64 = WASM_STACK_BYTES as u64;
const STACK_SHARE: u64 = 16;
/// Most of a request's path that is logged.
const MAX_LOGGED_PATH_CHARS: usize = 256;

type Answer = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

/// Answers a request. Dropping the future tells the guest's task that the client has gone.
pub(super) async fn respond(server: Arc<Server>, request: Request<Incoming>) -> Response<ResponseBody> {
    if request.uri().authority().is_none() && request.headers().get(HOST).is_none_or(|host| host.to_str().is_err()) {
        return ResponseBody::text(StatusCode::BAD_REQUEST, "the request names no host\n");
    }
    let busy = || {
        let mut response =
            ResponseBody::text(StatusCode::SERVICE_UNAVAILABLE, "too many requests are being answered\n");
        response.headers_mut().insert(hyper::header::RETRY_AFTER, hyper::header::HeaderValue::from_static("1"));
        response
    };
    let Some(held) = server.blueprint.memory.try_reserve(REQUEST_BYTES) else { return busy() };
    let Some(pass) = server.gate.enter().await else { return busy() };
    let stack_bytes = STACK_BYTES.min(server.blueprint.memory.part(STACK_SHARE));
    let Some(stack) = server.blueprint.memory.try_reserve(stack_bytes) else { return busy() };
    let (answer, answered) = oneshot::channel();
    let (fate, gone) = (Fate::default(), CancellationToken::new());
    let client = Client::new(gone.clone(), Some(held));
    let (doing, fares) = (Arc::clone(&server), fate.clone());
    let guest = async move {
        doing.guest(request, answer, &fares, &gone).await;
        drop((pass, stack));
    };
    let blueprint = &server.blueprint;
    // All of it, since much of what a request costs is to make an instance and to clear up behind it.
    server.spawn(blueprint.shared.cpu.drive(&blueprint.account, guest));
    match answered.await {
        Ok(Ok(response)) => ResponseBody::of_guest(response, fate, client),
        Ok(Err(_)) => ResponseBody::text(StatusCode::INTERNAL_SERVER_ERROR, "the guest refused the request\n"),
        Err(_) if fate.found_no_room() => busy(),
        Err(_) => ResponseBody::text(StatusCode::INTERNAL_SERVER_ERROR, "the guest gave no answer\n"),
    }
}

impl Server {
    /// Runs an instance from its making to its end. When this returns, nothing is left of it.
    async fn guest(&self, request: Request<Incoming>, answer: Answer, fate: &Fate, gone: &CancellationToken) {
        let asked = asked(&request);
        let outputs = self.blueprint.outputs();
        let mut store = match self.blueprint.store(outputs.clone(), Vec::new()) {
            Ok(store) => store,
            Err(error) => return self.blueprint.complain(format!("{asked}: {error}\n")).await,
        };
        let guest = call(&self.code, &mut store, request, answer);
        let result = tokio::select! {
            result = guest => Some(result),
            () = abandoned(gone) => None,
        };
        let complaint = match result {
            Some(Ok(())) => None,
            Some(Err(error)) if error.is::<PoolConcurrencyLimitError>() => {
                fate.no_room();
                None
            }
            Some(Err(error)) => {
                fate.fail();
                Some(self.failure(&error))
            }
            None => {
                fate.fail();
                Some(format!("ended: its client had been gone for {} s", ABANDONED.as_secs()))
            }
        };
        drop(store);
        for output in &outputs {
            output.drained().await;
        }
        if let Some(complaint) = complaint {
            self.blueprint.complain(format!("{asked}: {complaint}\n")).await;
        }
    }

    /// What is to be said about a guest that failed. One that outgrew the container's memory ends the container.
    fn failure(&self, error: &wasmtime::Error) -> String {
        if let Some(out) = error.downcast_ref::<OutOfMemory>() {
            self.end(endings::out_of_memory(out));
            return out.to_string();
        }
        match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => format!("the guest exited with code {code}"),
            None => endings::explanation(error),
        }
    }
}

async fn call(
    code: &ProxyPre<GuestState>,
    store: &mut Store<GuestState>,
    request: Request<Incoming>,
    answer: Answer,
) -> wasmtime::Result<()> {
    let request = request.map(|body| PacedBody::new(body, STALLED_READ));
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let out = store.data_mut().http().new_response_outparam(answer)?;
    let guest = code.instantiate_async(&mut *store).await?;
    guest.wasi_http_incoming_handler().call_handle(store, request, out).await
}

/// Resolves some time after the client has gone.
async fn abandoned(gone: &CancellationToken) {
    gone.cancelled().await;
    sleep(ABANDONED).await;
}

/// The request, as a log names it.
fn asked(request: &Request<Incoming>) -> String {
    let path = request.uri().path().chars().take(MAX_LOGGED_PATH_CHARS).collect::<String>();
    format!("{} {path}", request.method())
}
