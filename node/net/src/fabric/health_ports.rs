//! `healthCheckNodePort`: by HTTP a load balancer learns whether a service under `externalTrafficPolicy: Local` has endpoints
//! on this node, in the words of kube-proxy. Every connection is one question; nothing of what is asked is looked at.

use super::Shared;
use coracle_objects::ObjectKey;
use serde_json::json;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// Questions answered at one time on one port; the kernel's backlog holds the rest.
const ANSWERING_MAX: usize = 64;
/// Longest time for a question and its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// After an accept fails, so long nothing is accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What ends the head of a request.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Answers until the port is closed.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener, service: ObjectKey, close: CancellationToken) {
    let answering = Arc::new(Semaphore::new(ANSWERING_MAX));
    loop {
        let one = async {
            let permit = Arc::clone(&answering).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?.0, permit))
        };
        let accepted = tokio::select! {
            () = close.cancelled() => return,
            accepted = one => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let answer = answer(shared.services().local_endpoints(&service), &service);
                shared.spawn_until(close.clone(), async move {
                    if !matches!(tokio::time::timeout(ANSWER_TIMEOUT, exchange(stream, answer)).await, Ok(Ok(()))) {
                        tracing::debug!("somebody who asked for a service's health did not wait for the answer");
                    }
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn exchange(mut stream: TcpStream, answer: String) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(HEAD_END.len()).any(|window| window == HEAD_END) {
        if head.len() >= HEAD_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The whole response for so many local endpoints.
fn answer(local: usize, service: &ObjectKey) -> String {
    let status = if local == 0 { "503 Service Unavailable" } else { "200 OK" };
    let body = json!({
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": local,
        "serviceProxyHealthy": true,
    });
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {local}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_how_many_there_are() {
        let service = ObjectKey::namespaced("shop", "web");
        for (local, status) in [(0, "HTTP/1.1 503 Service Unavailable"), (3, "HTTP/1.1 200 OK")] {
            let answer = answer(local, &service);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(status), "{head}");
            assert!(head.contains(&format!("X-Load-Balancing-Endpoint-Weight: {local}\r\n")), "{head}");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!((&body["localEndpoints"], &body["service"]["name"]), (&json!(local), &json!("web")));
        }
    }
}
