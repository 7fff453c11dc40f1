//! A node that asks too much of the control plane: it is refused and named, and the others go on.

use super::{Impostor, NODES, cluster_goes_on, control, has_event, impostor, realm, register};
use coracle_tests::eventually;
use coracle_wire::v1::{FollowRequest, NodePing, NodeSignal, SessionFrame, node_signal};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// More than a node may have of anything below.
const VIEWS: usize = 60;
const PINGS: usize = 2000;
const CONNECTIONS: usize = 40;
const STREAMS: usize = 3000;
/// How long a stream is given to say something.
const WORD_WAIT: Duration = Duration::from_millis(500);

/// Follows its view once more; answers the refusal.
fn follow(evil: &Impostor) -> Option<Status> {
    let mut link = evil.link();
    evil.does(async move {
        let mut stream = match link.follow(FollowRequest::default()).await {
            Ok(stream) => stream.into_inner(),
            Err(refusal) => return Some(refusal),
        };
        tokio::time::timeout(WORD_WAIT, stream.message()).await.ok()?.err()
    })
}

#[test]
fn a_node_that_asks_too_much_is_refused_and_named_and_the_others_go_on() {
    let (mut realm, kubectl) = realm();
    let evil = impostor(&realm, "evil");
    register(&evil, "evil");

    let refusals: Vec<Status> = (0..VIEWS).filter_map(|_| follow(&evil)).collect();
    let refusal = refusals.first().expect("all views are given");
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
    assert!(refusal.message().contains("asks too much"), "{refusal}");
    has_event(&kubectl, "evil", "NodeAsksTooMuch", "its view too often");

    let (pings, mut stream) = control(&evil, "evil");
    let refusal = evil.does(async move {
        let ping = || NodeSignal { signal: Some(node_signal::Signal::Ping(NodePing {})) };
        let pinging = async {
            for _ in 0..PINGS {
                if pings.send(ping()).await.is_err() {
                    break;
                }
            }
            // The answer is the stream's to give, also when nobody takes pings any more.
            std::future::pending::<Infallible>().await
        };
        let listening = async {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    other => return other,
                }
            }
        };
        tokio::select! {
            answer = listening => answer,
            never = pinging => match never {},
        }
    });
    let refusal = refusal.expect_err("all pings are answered");
    assert_eq!((refusal.code(), refusal.message()), (Code::ResourceExhausted, "too many pings"));

    // Streams that never say what they are, as many as the connection takes.
    for _ in 0..STREAMS {
        let mut link = evil.link();
        evil.begins(async move {
            let (sender, receiver) = mpsc::channel::<SessionFrame>(1);
            let stream = link.session(ReceiverStream::new(receiver)).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
            drop((sender, stream));
        });
    }
    let crowd: Vec<Impostor> = (0..CONNECTIONS).map(|_| impostor(&realm, "evil")).collect();
    let answers = crowd.iter().map(|one| one.get(NODES, "", "evil"));
    let refused = answers.filter(Result::is_err).count();
    assert!(refused > 0, "{CONNECTIONS} connections of one node are taken");
    cluster_goes_on(&mut realm, &kubectl);
    drop((evil, crowd));
    let again = impostor(&realm, "evil");
    eventually("a node that has calmed down to be heard", || {
        again.get(NODES, "", "evil").map_err(|status| status.to_string())
    });
}
