//! With which pings a node's contact is made.

use super::*;
use std::time::Duration;

#[test]
fn what_renews_no_lease_is_no_contact() {
    let directory = tempfile::tempdir().unwrap();
    let contact = Contact::open(directory.path(), Duration::from_secs(40));
    let long = Duration::from_secs(100);
    let mut pings = Pings::new();
    for _ in 0..5 {
        pings.send(contact.now());
    }
    contact.lose(long);
    for (unrenewed, behind) in [(true, 1), (false, 2)] {
        pings.hear(&ServerPong { unrenewed, behind }, &contact);
        assert!(contact.silence() >= long && contact.is_lost(), "the server has only answered");
    }
    pings.hear(&ServerPong { unrenewed: true, behind: 2 }, &contact);
    assert!(contact.silence() < long && contact.is_lost(), "it was heard once, and is not any more");
    pings.hear(&ServerPong { unrenewed: false, behind: 3 }, &contact);
    assert!(contact.is_lost(), "nothing new");
    pings.hear(&ServerPong { unrenewed: false, behind: 0 }, &contact);
    assert!(!contact.is_lost());
}

#[test]
fn a_node_was_heard_when_it_sent_what_renewed_its_lease() {
    let mut pings = Pings::new();
    for at in [10, 20, 30, 40, 50] {
        pings.send(at);
    }
    let told = [1, 1, 2, 0, 2].map(|behind| pings.answered(behind));
    assert_eq!(told, [None, Some(10), None, Some(40), None], "not when it sent what is answered");
    pings.send(60);
    assert_eq!(pings.answered(0), Some(60));
}

#[test]
fn pings_that_renew_nothing_are_not_kept_for_ever_and_answers_stay_in_step() {
    let mut pings = Pings::new();
    let many = KEPT_MAX * 3;
    for at in 1..=many {
        pings.send(at);
        assert_eq!(pings.answered(at as u64), None);
        assert!(pings.sent.len() <= KEPT_MAX);
    }
    pings.send(0);
    let forgotten = many as u64;
    assert_eq!(pings.answered(forgotten), None, "it was sent too long ago");
    pings.send(7);
    assert_eq!(pings.answered(1), Some(0));
    assert_eq!(pings.answered(0), Some(7));
}
