//! Hooks against listeners of the test's own.

use super::*;
use crate::pod::{probes::tests::World, subject::tests::subject};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_container_without_a_hook_does_nothing() {
    let world = World::new();
    for lifecycle in [json!({}), json!({"lifecycle": {"preStop": {"tcpSocket": {"port": 1}}}})] {
        let subject = subject(lifecycle);
        assert_eq!(run(&world.context, &subject, Hook::PreStop, LIMIT).await, Ok(()));
        assert_eq!(run(&world.context, &subject, Hook::PostStart, LIMIT).await, Ok(()));
    }
}

#[tokio::test]
async fn a_request_is_made_and_any_answer_will_do() {
    let world = World::new();
    let seen = world.serve("10.244.0.7:8080", |_| "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned()).await;
    let handler = json!({"httpGet": {"port": "http", "path": "/bye", "scheme": "HTTP"}});
    let subject = subject(json!({"lifecycle": {"preStop": handler, "postStart": {"httpGet": {"port": 81}}}}));
    assert_eq!(run(&world.context, &subject, Hook::PreStop, LIMIT).await, Ok(()));
    let request = seen.lock().unwrap()[0].clone();
    assert!(request.starts_with("GET /bye HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("user-agent: kube-lifecycle/1.33\r\n"), "{request}");
    let failure = run(&world.context, &subject, Hook::PostStart, LIMIT).await.unwrap_err();
    let expected = "postStart hook of container app in pod p_default(u1) failed: \
        Get \"http://10.244.0.7:81/\": dial tcp 10.244.0.7:81: connect: connection refused";
    assert_eq!(failure.message, expected);
}

#[tokio::test]
async fn sleeping_and_hanging_end_in_time() {
    let world = World::new();
    world.hang("10.244.0.7:8080");
    let timed = async |handler: Value, limit: u64| {
        let subject = subject(json!({"lifecycle": {"preStop": handler}}));
        let began = world.context.pace.now();
        let result = run(&world.context, &subject, Hook::PreStop, Duration::from_secs(limit)).await;
        let took = world.context.pace.now() - began;
        (took.as_secs(), result.map_err(|failure| failure.message))
    };
    let (took, result) = timed(json!({"sleep": {"seconds": 2}}), 600).await;
    assert!((2..600).contains(&took) && result == Ok(()), "{took} {result:?}");
    let (took, result) = timed(json!({"sleep": {"seconds": 600}}), 2).await;
    assert!((2..600).contains(&took) && result.is_err(), "{took} {result:?}");
    let (took, result) = timed(json!({"httpGet": {"port": 8080}}), 2).await;
    assert!(took >= 2 && result.unwrap_err().contains("deadline exceeded"), "{took}");
}
