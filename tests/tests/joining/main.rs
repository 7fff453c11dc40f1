//! Machines become nodes with a token, stay nodes by renewing, and are out when their node is deleted; and who has no
//! right to any of it is refused, with the reason.

mod machine;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_tests::{
    Fleet, Kubectl, eventually, guest,
    pods::{self, on, running, toolbox},
    wait::contains,
};
use machine::{Crowd, Held, Machine, with_certificate, with_token};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};

/// See `docs/nodes.md`.
const MORE_CONNECTIONS_THAN_A_NODE_MAY_HAVE: usize = 20;

/// A control plane without nodes, and places for so many machines.
fn cluster(places: usize, arguments: &[&str]) -> (Fleet, Kubectl) {
    let mut fleet = Fleet::unstarted(places).with_server_arguments(arguments);
    fleet.start_server();
    let kubectl = fleet.kubectl();
    (fleet, kubectl)
}

/// The line for a machine to join with.
fn line(fleet: &Fleet, options: &str) -> String {
    fleet.coracle(&format!("token create {options}")).unwrap()
}

fn token_of(line: &str) -> &str {
    line.split_whitespace().skip_while(|word| *word != "--token").nth(1).expect("the line has a token")
}

/// A request for the certificate of `user` in `group`.
fn request(name: &str, user: &str, group: &str) -> String {
    request_with(&KeyPair::generate().unwrap(), name, user, group)
}

/// The same for this key.
fn request_with(key: &KeyPair, name: &str, user: &str, group: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, user);
    let pem = params.serialize_request(key).unwrap().pem().unwrap();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": STANDARD.encode(pem), "usages": ["client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            // Whoever it says that asks: the server writes who does.
            "username": "admin", "groups": ["system:masters"]}})
    .to_string()
}

/// Waits until the request is decided; what was said.
fn decision(kubectl: &Kubectl, name: &str) -> Value {
    eventually("a decision", || {
        let object = kubectl.json(&format!("get csr {name}"))?;
        let found = object["status"]["conditions"][0].clone();
        if found.is_null() { Err(object.to_string()) } else { Ok(found) }
    })
}

#[test]
fn a_machine_joins_by_the_line_that_is_printed_and_stays_a_node() {
    let (fleet, kubectl) = cluster(1, &[]);
    let line = line(&fleet, "--description lab");
    assert!(line.starts_with(&format!("coracle node join {} --token ", fleet.server_url())), "{line}");
    contains(&fleet.coracle("token list").unwrap(), "lab").unwrap();
    let mut edge = Machine::new(&fleet, 0, "edge");
    edge.join(&line);
    edge.until_ready(&kubectl);
    edge.says("it is asked for a certificate of node edge");
    edge.says(&format!("this machine is node edge of {}", fleet.server_url()));
    edge.says(&format!("node edge of {} runs", fleet.server_url()));
    for kubectl in fleet.kubectls() {
        let requests = kubectl.run("get csr").unwrap();
        contains(&requests, "Approved,Issued").unwrap();
        contains(&requests, "kubernetes.io/kube-apiserver-client-kubelet").unwrap();
    }
    // Images too are had with the certificate alone.
    fleet.push(&guest("toolbox.wasm"), "toolbox:1");
    pods::apply(&kubectl, "default", &[on("edge", toolbox("web", "Always", &["wait-eof"]))]);
    running(&kubectl, "web");

    fleet.coracle(&format!("token delete {}", token_of(&line))).unwrap();
    edge.kill();
    let renewed = || {
        let lease = kubectl.json("-n kube-node-lease get lease edge")?;
        lease["spec"]["renewTime"].as_str().map(str::to_owned).ok_or_else(|| lease.to_string())
    };
    let is_renewed = |before: &String, edge: &Machine| {
        eventually("its lease to be renewed", || if renewed()? > *before { Ok(()) } else { Err(edge.log()) });
    };
    let before = eventually("its lease", renewed);
    edge.go_on();
    is_renewed(&before, &edge);
    // The whole line once more changes nothing either, though its token is gone.
    let before = eventually("its lease", renewed);
    edge.join(&line);
    is_renewed(&before, &edge);
}

#[test]
fn a_person_may_have_to_decide() {
    let (fleet, admin) = cluster(1, &[]);
    let line = line(&fleet, "--manual");
    for (number, kubectl) in fleet.kubectls().iter().enumerate() {
        let pending = || -> Result<String, String> {
            let all = kubectl.json("get csr")?;
            let mut items = all["items"].as_array().cloned().unwrap_or_default().into_iter();
            let found = items.find(|one| one["status"]["conditions"].is_null()).ok_or("none waits")?;
            Ok(found["metadata"]["name"].as_str().unwrap_or_default().to_owned())
        };
        let mut good = Machine::new(&fleet, 0, &format!("good-{number}"));
        good.join(&line);
        let name = eventually("the request", pending);
        good.says(&format!("waits for approval: coracle certificate approve {name}"));
        contains(&kubectl.run(&format!("get csr {name}")).unwrap(), "Pending").unwrap();
        let described = fleet.coracle(&format!("describe csr {name}")).unwrap();
        for part in
            [&format!("system:node:good-{number}"), "system:nodes", "system:bootstrap:", "client auth", "Pending"]
        {
            contains(&described, part).unwrap();
        }
        contains(&kubectl.run(&format!("certificate approve {name}")).unwrap(), "approved").unwrap();
        good.until_ready(&admin);
        good.kill();

        let mut bad = Machine::new(&fleet, 0, &format!("bad-{number}"));
        bad.join(&line);
        let name = eventually("the request", pending);
        contains(&kubectl.run(&format!("certificate deny {name}")).unwrap(), "denied").unwrap();
        assert!(!bad.ended().success());
        contains(&bad.log(), "refused").unwrap();
        contains(&kubectl.run(&format!("get csr {name}")).unwrap(), "Denied").unwrap();
        let refused = fleet.coracle(&format!("certificate approve {name}")).expect_err("a decision is final");
        contains(&refused, "is denied already").unwrap();
        // It may ask again, with another request.
        bad.join(&line);
        let name = eventually("the request", pending);
        fleet.coracle(&format!("certificate approve {name}")).unwrap();
        bad.until_ready(&admin);
    }
}

#[test]
fn who_shows_nothing_good_does_not_join_and_hears_why() {
    let (fleet, kubectl) = cluster(2, &[]);
    let good = line(&fleet, "");
    let mut stranger = Machine::new(&fleet, 0, "stranger");
    let hash = good.split("sha256:").nth(1).unwrap().split_whitespace().next().unwrap();
    let other = format!("{}{}", if hash.starts_with('0') { "1" } else { "0" }, &hash[1..]);
    contains(&stranger.refused(&good.replace(hash, &other)), "is not of the cluster").unwrap();
    let token = token_of(&good);
    contains(&stranger.refused(&good.replace(token, "nonsense")), "is no token: wanted is ID.SECRET").unwrap();
    for bad in ["abcdef.0123456789abcdef", &format!("{}.aaaaaaaaaaaaaaaa", &token[..6])] {
        let said = stranger.refused(&good.replace(token, bad));
        contains(&said, "does not take the token").unwrap();
        contains(&said, "`coracle token list`").unwrap();
    }
    let short = line(&fleet, "--ttl 1s");
    eventually("the token's end", || {
        let list = fleet.coracle("token list")?;
        let counts = list.lines().any(|line| line.starts_with(token_of(&short)) && !line.contains("expired"));
        if counts { Err(list) } else { Ok(()) }
    });
    contains(&stranger.refused(&short), "does not take the token").unwrap();
    let deleted = line(&fleet, "");
    fleet.coracle(&format!("token delete {}", token_of(&deleted))).unwrap();
    contains(&stranger.refused(&deleted), "does not take the token").unwrap();

    let once = line(&fleet, "--single-use");
    let mut first = Machine::new(&fleet, 1, "first");
    first.join(&once);
    first.until_ready(&kubectl);
    contains(&stranger.refused(&once), "was used for first").unwrap();
    contains(&fleet.coracle("token list").unwrap(), "used by first").unwrap();

    // The name of a node that is there is not to be had with the best of tokens.
    let mut thief = Machine::new(&fleet, 0, "first");
    thief.directory = fleet.path("thief");
    contains(&thief.refused(&good), "there is a node first").unwrap();
    let mut odd = Machine::new(&fleet, 0, "Odd_Name");
    contains(&odd.refused(&good), "RFC 1123").unwrap();
    // Nor does anybody ask who could not run with what else the line says.
    let mut careless = Machine::new(&fleet, 0, "careless");
    for (options, says) in [
        ("--label node-role.kubernetes.io/edge=", "kubectl label node NAME node-role.kubernetes.io/edge="),
        ("--registries /nowhere.json", "/nowhere.json"),
        ("--image-gc-high-threshold 10 --image-gc-low-threshold 20", "must be below"),
    ] {
        contains(&careless.refused(&format!("{good} {options}")), says).unwrap();
        assert!(!careless.credentials().exists(), "{options}: it has begun to join");
    }
    assert_eq!(kubectl.json("get nodes").unwrap()["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn nobody_gets_more_than_a_certificate_of_their_own() {
    let (fleet, admin) = cluster(1, &[]);
    let line = line(&fleet, "");
    let mut edge = Machine::new(&fleet, 0, "edge");
    edge.join(&line);
    edge.until_ready(&admin);
    for (number, program) in Kubectl::programs().iter().enumerate() {
        let bootstrapper = with_token(&fleet, program, token_of(&line));
        let node = with_certificate(&fleet, program, &edge.credentials().join("node.pem"));
        let cases = [
            (&bootstrapper, "system:node:edge", "system:nodes", "NameTaken"),
            (&bootstrapper, "admin", "system:masters", "InvalidRequest"),
            (&bootstrapper, "system:node:other", "system:masters", "InvalidRequest"),
            (&node, "system:node:other", "system:nodes", "NotItsOwn"),
            (&node, "system:node:edge", "system:masters", "InvalidRequest"),
        ];
        for (index, (kubectl, user, group, reason)) in cases.into_iter().enumerate() {
            let name = format!("hostile-{number}-{index}");
            kubectl.run_with_input("create -f -", &request(&name, user, group)).unwrap();
            let condition = decision(&admin, &name);
            assert_eq!((&condition["type"], &condition["reason"]), (&json!("Denied"), &json!(reason)), "{condition}");
            let object = kubectl.json(&format!("get csr {name}")).unwrap();
            assert_ne!(object["spec"]["username"], "admin", "who asks is not theirs to say");
            assert!(object["status"]["certificate"].is_null());
            contains(&kubectl.run(&format!("delete csr {name}")).unwrap_err(), "orbidden").unwrap();
            // Newer kubectls look first, and do not even ask for what was denied.
            let refused = kubectl.run(&format!("certificate approve {name}")).unwrap_err();
            contains(&refused, "orbidden").or_else(|_| contains(&refused, "already Denied")).unwrap();
        }
        for words in ["get csr", "get secrets -A", "get pods -A", "get nodes", "-n kube-system get cm"] {
            let refused = bootstrapper.run(words).unwrap_err();
            contains(&refused, "orbidden").unwrap();
        }
        // What a person lets through by mistake is not signed all the same.
        let name = format!("mistake-{number}");
        admin.run_with_input("create -f -", &request(&name, "admin", "system:masters")).unwrap();
        admin.run(&format!("certificate approve {name}")).unwrap();
        eventually("it fails", || contains(&admin.run(&format!("get csr {name}"))?, "Approved,Failed"));
    }
}

/// Who it says that it is counts no more.
fn is_nobody(kubectl: &Kubectl) {
    let refused = kubectl.run("get node edge").unwrap_err();
    contains(&refused, "nauthorized").or_else(|_| contains(&refused, "logged in")).unwrap();
}

#[test]
fn a_deleted_node_is_out_at_once_and_its_certificate_is_worth_nothing_ever_after() {
    let (fleet, admin) = cluster(2, &[]);
    let line = line(&fleet, "");
    let mut edge = Machine::new(&fleet, 0, "edge");
    edge.join(&line);
    edge.until_ready(&admin);
    let program = &Kubectl::programs()[0];
    let stolen = fleet.path("stolen.pem");
    fs::copy(edge.credentials().join("node.pem"), &stolen).unwrap();
    let thief = with_certificate(&fleet, program, &stolen);
    thief.run("get node edge").unwrap();
    // Who has stolen it speaks as the node while that is away.
    edge.kill();
    let held = Held::open(&fleet, &stolen, "edge");
    let range = admin.json("get node edge").unwrap()["spec"]["podCIDR"].clone();

    admin.run("delete node edge").unwrap();
    is_nobody(&thief);
    held.until_cut();
    // The node itself is told, and does not come back by itself.
    edge.go_on();
    eventually("the node to hear of it", || contains(&edge.log(), "ended when the node was deleted"));
    contains(&admin.run("get node edge").unwrap_err(), "NotFound").unwrap();

    // A new machine of the same name is another node, with nothing of the old one's.
    edge.kill();
    let mut again = Machine::new(&fleet, 1, "edge");
    again.directory = fleet.path("again");
    again.join(&line);
    again.until_ready(&admin);
    let node = admin.json("get node edge").unwrap();
    let since = node["metadata"]["annotations"]["coracle.dev/credentials-since"].as_str().unwrap_or_default();
    assert!(since.parse::<u64>().is_ok_and(|since| since > 0), "{node}");
    assert_eq!(node["spec"]["podCIDR"], range, "the name's own range");
    eventually("a lease of this Node and not of the one before", || {
        let lease = admin.json("-n kube-node-lease get lease edge")?;
        let owner = lease["metadata"]["ownerReferences"][0]["uid"].clone();
        if owner == node["metadata"]["uid"] { Ok(()) } else { Err(lease.to_string()) }
    });
    is_nobody(&thief);
    // Nor does it cost the node of that name now anything, however often it is shown.
    let crowd = Crowd::open(&fleet, &stolen, MORE_CONNECTIONS_THAN_A_NODE_MAY_HAVE);
    let mine = with_certificate(&fleet, program, &again.credentials().join("node.pem"));
    mine.run("get node edge").unwrap();
    drop(crowd);
    mine.run("get node edge").unwrap();
    mine.run("annotate --overwrite node edge coracle.dev/credentials-since=0").ok();
    let node = admin.json("get node edge").unwrap();
    assert_eq!(node["metadata"]["annotations"]["coracle.dev/credentials-since"], since, "only servers write it");
}

#[test]
fn a_machine_that_a_person_lets_in_as_a_node_that_is_there_takes_its_place_at_once() {
    let (fleet, admin) = cluster(1, &[]);
    let mut edge = Machine::new(&fleet, 0, "edge");
    edge.join(&line(&fleet, ""));
    edge.until_ready(&admin);
    let since = || -> u64 {
        let node = admin.json("get node edge").unwrap();
        let said = node["metadata"]["annotations"]["coracle.dev/credentials-since"].as_str().map(str::to_owned);
        said.and_then(|said| said.parse().ok()).unwrap_or(0)
    };
    let (first, program) = (since(), &Kubectl::programs()[0]);
    let old = fleet.path("old.pem");
    fs::copy(edge.credentials().join("node.pem"), &old).unwrap();
    let old_machine = with_certificate(&fleet, program, &old);
    old_machine.run("get node edge").unwrap();
    edge.kill();
    let held = Held::open(&fleet, &old, "edge");

    let key = KeyPair::generate().unwrap();
    admin.run_with_input("create -f -", &request_with(&key, "anew", "system:node:edge", "system:nodes")).unwrap();
    admin.run("certificate approve anew").unwrap();
    let certificate = eventually("the certificate", || {
        let object = admin.json("get csr anew")?;
        let certificate = object["status"]["certificate"].as_str().ok_or_else(|| object["status"].to_string())?;
        STANDARD.decode(certificate).map_err(|error| error.to_string())
    });
    // Before anybody had the new one, all had been told that the old one counts no more.
    let second = since();
    assert!(second > first, "{second} after {first}");
    is_nobody(&old_machine);
    held.until_cut();
    let new = fleet.path("new.pem");
    fs::write(&new, [certificate, key.serialize_pem().into_bytes()].concat()).unwrap();
    let new_machine = with_certificate(&fleet, program, &new);
    new_machine.run("get node edge").unwrap();
    edge.go_on();
    eventually("the old machine to hear of it", || contains(&edge.log(), "another machine joined as it"));

    // Who only renews puts nobody out, itself included.
    new_machine.run_with_input("create -f -", &request("again", "system:node:edge", "system:nodes")).unwrap();
    assert_eq!(decision(&admin, "again")["reason"], "Renewal");
    eventually("the certificate", || match admin.json("get csr again")?["status"]["certificate"].as_str() {
        Some(_) => Ok(()),
        None => Err("there is none".to_owned()),
    });
    assert_eq!(since(), second);
    new_machine.run("get node edge").unwrap();
}

#[test]
fn a_node_that_is_deleted_while_it_runs_says_why_and_joins_anew_with_a_new_token() {
    let (fleet, admin) = cluster(1, &[]);
    let first = line(&fleet, "--single-use");
    let mut edge = Machine::new(&fleet, 0, "edge");
    edge.join(&first);
    edge.until_ready(&admin);
    admin.run("delete node edge").unwrap();
    edge.says("ended when the node was deleted");
    edge.kill();
    // What the node had taken on belongs to its former life.
    let entry = edge.directory.join("ledger/former.json");
    fs::write(&entry, "{}").unwrap();
    edge.join(&first);
    contains(&edge.failed(), "was used for edge").unwrap();
    assert!(entry.exists(), "nothing is forgotten for a token that is not good");
    edge.join(&line(&fleet, ""));
    edge.until_ready(&admin);
    edge.says("this machine joins anew");
    let left = fs::read_dir(edge.directory.join("ledger")).unwrap().map(|file| file.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new(), "not even set aside");
}

#[test]
fn a_directory_is_one_nodes_and_one_process_has_it() {
    let (fleet, admin) = cluster(2, &[]);
    let line = line(&fleet, "");
    let mut edge = Machine::new(&fleet, 0, "edge");
    edge.join(&line);
    edge.until_ready(&admin);
    let in_use = format!("is in use by another node (process {})", edge.pid().unwrap());
    let mut twin = Machine::new(&fleet, 1, "twin");
    twin.directory.clone_from(&edge.directory);
    twin.go_on();
    contains(&twin.failed(), &in_use).unwrap();
    // Where the credentials lie elsewhere, the directory alone tells whose it is.
    fs::rename(edge.credentials(), fleet.path("elsewhere")).unwrap();
    contains(&twin.refused(&line), &in_use).unwrap();
    edge.kill();
    contains(&twin.refused(&line), "is the directory of node edge, not of twin").unwrap();
    assert!(!twin.credentials().exists(), "nothing was asked");
    fs::rename(fleet.path("elsewhere"), edge.credentials()).unwrap();
    edge.go_on();
    edge.until_ready(&admin);
}

#[test]
fn a_certificate_is_renewed_without_a_restart() {
    let (fleet, admin) = cluster(1, &["--certificate-lifetime", "20"]);
    let mut edge = Machine::new(&fleet, 0, "edge");
    edge.join(&line(&fleet, ""));
    edge.until_ready(&admin);
    let (pid, pair) = (edge.pid(), edge.credentials().join("node.pem"));
    let first = fleet.path("first.pem");
    fs::copy(&pair, &first).unwrap();
    let mut seen = vec![fs::read_to_string(&first).unwrap()];
    let began = Instant::now();
    while seen.len() < 4 {
        let next = eventually("another certificate", || match fs::read_to_string(&pair) {
            Ok(text) if !seen.contains(&text) => Ok(text),
            _ => Err(edge.log()),
        });
        seen.push(next);
    }
    // Three lives of at least 12 s each: what it began with has expired.
    let old = with_certificate(&fleet, &Kubectl::programs()[0], &first);
    eventually("the first one to expire", || match old.run("get node edge") {
        Ok(_) => Err("it still counts".to_owned()),
        Err(error) => contains(&error, "expired"),
    });
    assert!(began.elapsed() > Duration::from_secs(20));
    assert_eq!(edge.pid(), pid);
    fleet.push(&guest("toolbox.wasm"), "toolbox:1");
    pods::apply(&admin, "default", &[on("edge", toolbox("late", "Always", &["wait-eof"]))]);
    running(&admin, "late");
    edge.until_ready(&admin);
    contains(&admin.run("get csr").unwrap(), "system:node:edge").unwrap();
}
