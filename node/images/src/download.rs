//! One blob onto the disk: what broke off goes on where it was, a bounded number of times; what is not what the
//! manifest announced is thrown away.

use crate::{
    failure::{Class, Failure},
    manifest::Layer,
    pull::Puller,
    reference::Reference,
    registry::{Registries, Wanted},
    store::BlobWriter,
};
use coracle_objects::registry_auth::Keyring;
use futures::StreamExt;
use reqwest::{Response, StatusCode, header};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Tries in a row that may bring nothing, and tries in all.
const FRUITLESS_MAX: u32 = 4;
const TRIES_MAX: u32 = 32;
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Slowest registry that is waited for, and what a small blob gets.
const BYTES_PER_SECOND_MIN: u64 = 16 * 1024;
const TIME_MIN: Duration = Duration::from_mins(1);

/// Fetches a layer that is not here. Nobody else may be at it.
pub(crate) async fn blob(
    puller: &Puller,
    reference: &Reference,
    keyring: &Keyring,
    layer: &Layer,
) -> Result<(), Failure> {
    let begin = || {
        let begun = puller.store.begin(&layer.digest, layer.size_bytes);
        begun.map_err(|error| Failure::last(format!("cannot write blob {}: {error}", layer.digest)))
    };
    let writer = begin()?;
    let resumed = writer.done_bytes() > 0;
    match finish(fill(puller, reference, keyring, layer, writer).await?).await {
        // What an earlier pull left may be what is wrong. It is gone now.
        Err(_) if resumed => finish(fill(puller, reference, keyring, layer, begin()?).await?).await,
        other => other,
    }
}

async fn finish(writer: BlobWriter) -> Result<(), Failure> {
    let finished = tokio::task::spawn_blocking(move || writer.finish()).await;
    finished.unwrap_or_else(|_| Err(Failure::last("writing was interrupted")))
}

/// Tries until all bytes are there. After a passing trouble what is there stays for the next pull.
async fn fill(
    puller: &Puller,
    reference: &Reference,
    keyring: &Keyring,
    layer: &Layer,
    mut writer: BlobWriter,
) -> Result<BlobWriter, Failure> {
    let path = format!("blobs/{}", layer.digest);
    let deadline = Instant::now() + TIME_MIN + Duration::from_secs(layer.size_bytes / BYTES_PER_SECOND_MIN);
    let (mut fruitless, mut tries) = (0, 0);
    loop {
        let before = writer.done_bytes();
        let wanted = Wanted { reference, keyring, path: &path, accept: "*/*", from: before };
        let outcome = timeout_at(deadline, once(&puller.registries, wanted, &mut writer)).await;
        let too_slow = |_| {
            let text = format!("blob {} comes at less than {BYTES_PER_SECOND_MIN} bytes a second", layer.digest);
            Err(Failure::new(Class::Passing, text))
        };
        let failure = match outcome.unwrap_or_else(too_slow) {
            Ok(()) => return Ok(writer),
            Err(failure) if failure.class != Class::Passing => return Err(failure),
            Err(failure) => failure,
        };
        tries += 1;
        fruitless = if writer.done_bytes() > before { 0 } else { fruitless + 1 };
        if fruitless >= FRUITLESS_MAX || tries >= TRIES_MAX || Instant::now() >= deadline {
            let (done, all) = (writer.done_bytes(), writer.size_bytes());
            writer.leave();
            let text = format!("{}; {done} of {all} bytes are here, given up after {tries} tries", failure.text);
            return Err(Failure { text, ..failure });
        }
        tokio::time::sleep((puller.retry_delay * 2_u32.pow(fruitless)).min(PAUSE_MAX)).await;
    }
}

async fn once(registries: &Registries, wanted: Wanted<'_>, writer: &mut BlobWriter) -> Result<(), Failure> {
    if writer.done_bytes() == writer.size_bytes() && writer.size_bytes() > 0 {
        return Ok(());
    }
    let (response, _) = registries.get(wanted).await?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(writer.done_bytes()) => {}
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            writer.restart()?;
            return Err(Failure::new(Class::Passing, "the registry answered with another part than was asked for"));
        }
        _ => writer.restart()?,
    }
    let host = response.url().host_str().unwrap_or_default().to_owned();
    let announced = response.content_length();
    let missing = writer.size_bytes() - writer.done_bytes();
    if announced.is_some_and(|announced| announced > missing) {
        return Err(Failure::last(format!("what came for {} is longer than its manifest says", wanted.path)));
    }
    let mut stream = response.bytes_stream();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| Failure::transport(&host, error))?;
        writer.write(&part)?;
    }
    // A clean end: what is missing now was never there, and `finish` says so.
    Ok(())
}

fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
