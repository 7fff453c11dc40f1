//! What people may do, as they ask for it.

use coracle_tests::{Cluster, wait::contains};

#[test]
fn people_can_ask_what_they_may_do() {
    let cluster = Cluster::start();
    for kubectl in cluster.kubectls() {
        for words in ["create pods", "delete nodes", "get pods --subresource=log -n default", "* *", "get /healthz"] {
            assert_eq!(kubectl.run(&format!("auth can-i {words}")).unwrap().lines().next(), Some("yes"), "{words}");
        }
        // Only newer ones have it.
        if kubectl.run("auth --help").unwrap().contains("whoami") {
            let who = kubectl.run("auth whoami").unwrap();
            assert!(contains(&who, "admin").is_ok() && contains(&who, "system:masters").is_ok(), "{who}");
        }
        let all = kubectl.run("auth can-i --list").unwrap();
        assert!(contains(&all, "*.*").is_ok() && contains(&all, "[*]").is_ok(), "{all}");
    }
}
