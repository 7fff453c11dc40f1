//! An HTTP component that does whatever a test wants: the first word of the path says what, the others are arguments.

mod bodies;
mod health;
mod outgoing;

use std::{env, fs, hint::black_box, thread, time::Duration};
use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{ErrorCode, Fields, IncomingRequest, Method, OutgoingResponse, ResponseOutparam},
};

wasip2::http::proxy::export!(Handler);

struct Handler;

/// What most routes answer.
type Answer = Result<Vec<u8>, String>;

impl Guest for Handler {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let words = path.trim_start_matches('/').split('/').collect::<Vec<_>>();
        match words.as_slice() {
            ["grpc.health.v1.Health", "Check"] => health::check(request, out),
            ["echo"] => bodies::echo(request, out),
            ["count"] => {
                let length = bodies::length(request);
                answer(out, length.map(|length| length.to_string().into_bytes()));
            }
            ["big", bytes] => bodies::big(out, number(bytes)),
            ["slow", chunks, pause_ms] => bodies::slow(out, number(chunks), Duration::from_millis(number(pause_ms))),
            ["trap-late"] => {
                bodies::begin(out);
                trap();
            }
            ["nothing"] => {}
            ["refuse"] => ResponseOutparam::set(out, Err(ErrorCode::HttpRequestDenied)),
            ["status", code] => {
                let response = OutgoingResponse::new(Fields::new());
                let _ = response.set_status_code(number(code));
                ResponseOutparam::set(out, Ok(response));
            }
            words => answer(out, simple(words, &request)),
        }
    }
}

/// Routes that make their whole answer before they give it.
fn simple(words: &[&str], request: &IncomingRequest) -> Answer {
    match words {
        ["" | "hello"] => Ok(b"hello\n".to_vec()),
        ["request"] => Ok(described(request).into_bytes()),
        ["log", text] => {
            println!("{text}");
            eprintln!("{text}, it warns");
            Ok(Vec::new())
        }
        ["env", name] => Ok(env::var(name).unwrap_or_default().into_bytes()),
        ["args"] => Ok(env::args().collect::<Vec<_>>().join(" ").into_bytes()),
        ["read", name] => fs::read(format!("/data/{name}")).map_err(|error| error.to_string()),
        ["sleep", milliseconds] => {
            thread::sleep(Duration::from_millis(number(milliseconds)));
            Ok(b"slept\n".to_vec())
        }
        ["hold", mib, milliseconds] => {
            let block = vec![1_u8; number::<usize>(mib) << 20];
            black_box(&block);
            thread::sleep(Duration::from_millis(number(milliseconds)));
            Ok(b"held\n".to_vec())
        }
        ["visits"] => Ok(visits().to_string().into_bytes()),
        ["trap"] => trap(),
        ["spin"] => loop {
            black_box(());
        },
        ["exit", code] => std::process::exit(number(code)),
        ["fetch", scheme, authority, path @ ..] => outgoing::fetch(scheme, authority, &format!("/{}", path.join("/"))),
        _ => Err(format!("no such route: {}", words.join("/"))),
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn answer(out: ResponseOutparam, result: Answer) {
    let (status, bytes) = match result {
        Ok(bytes) => (200, bytes),
        Err(text) => (502, text.into_bytes()),
    };
    bodies::whole(out, status, &bytes);
}

/// The parts of the request that a client can check, a line each.
fn described(request: &IncomingRequest) -> String {
    let method = match request.method() {
        Method::Get => "GET".to_owned(),
        Method::Post => "POST".to_owned(),
        Method::Other(name) => name,
        other => format!("{other:?}"),
    };
    let mut text = format!(
        "method {method}\npath {}\nauthority {}\n",
        request.path_with_query().unwrap_or_default(),
        request.authority().unwrap_or_default()
    );
    let mut headers = request.headers().entries();
    headers.sort();
    for (name, value) in headers {
        text += &format!("header {name} {}\n", String::from_utf8_lossy(&value));
    }
    text
}

/// How often this instance has been asked.
fn visits() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static VISITS: AtomicU32 = AtomicU32::new(0);
    VISITS.fetch_add(1, Relaxed) + 1
}

#[inline(never)]
fn trap() -> ! {
    core::arch::wasm32::unreachable()
}
