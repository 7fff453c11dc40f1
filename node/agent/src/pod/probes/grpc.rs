//! The gRPC health check (`grpc.health.v1.Health/Check`) of one pod, without TLS.

use super::{Outcome, USER_AGENT, over_in};
use crate::{
    context::Context,
    pod::{reach, subject::Subject},
};
use http::Uri;
use hyper_util::rt::TokioIo;
use std::{error::Error, io, sync::Arc, time::Duration};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// Longest answer that is read; the status is one number.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// What the connection may hold of an answer that nobody reads.
const WINDOW_BYTES: u32 = 64 << 10;

/// Asks once.
pub(super) async fn check(
    context: &Arc<Context>,
    subject: &Arc<Subject>,
    port: u16,
    service: &str,
    limit: Duration,
) -> Outcome {
    let authority = reach::authority(subject, "", port);
    let asked = over_in(&context.pace, limit, async {
        let connected = over_in(&context.pace, limit, connect(context, subject, port, &authority)).await;
        let mut client = match connected {
            Some(Ok(client)) => client,
            Some(Err(error)) => {
                return Outcome::Failure(format!("error: failed to connect service at {authority:?}: {error}"));
            }
            None => return Outcome::Failure(timed_out_connecting(&authority, limit)),
        };
        match client.check(HealthCheckRequest { service: service.to_owned() }).await {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {
                Outcome::Success("service healthy".to_owned())
            }
            Ok(answer) => Outcome::Failure(format!(
                "service unhealthy (responded with {:?})",
                answer.get_ref().status().as_str_name()
            )),
            Err(status) => Outcome::Failure(match status.code() {
                Code::Unimplemented => {
                    format!(
                        "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                        status.message()
                    )
                }
                Code::DeadlineExceeded => timed_out(limit),
                code => {
                    format!("error: health rpc probe failed: rpc error: code = {code:?} desc = {}", status.message())
                }
            }),
        }
    });
    asked.await.unwrap_or_else(|| Outcome::Failure(timed_out(limit)))
}

fn timed_out(limit: Duration) -> String {
    format!("timeout: health rpc did not complete within {}s", limit.as_secs())
}

fn timed_out_connecting(authority: &str, limit: Duration) -> String {
    format!("timeout: failed to connect service {authority:?} within {}s: context deadline exceeded", limit.as_secs())
}

async fn connect(
    context: &Arc<Context>,
    subject: &Arc<Subject>,
    port: u16,
    authority: &str,
) -> Result<HealthClient<tonic::transport::Channel>, String> {
    let origin: Uri = format!("http://{authority}").parse().map_err(|error| format!("{error}"))?;
    let endpoint = Endpoint::from(origin)
        .user_agent(USER_AGENT)
        .map_err(|error| error.to_string())?
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES);
    let (context, subject) = (context.clone(), subject.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (context, subject) = (context.clone(), subject.clone());
        async move {
            let stream = reach::connect(&context, &subject, "", port).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
        // The innermost cause is what says something.
        let mut cause: &dyn Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        cause.to_string()
    })?;
    Ok(HealthClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}
