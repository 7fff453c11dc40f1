//! What a hostile node sends to pods of another: in others' names, to what is not there, in frames of its own making, and
//! with certificates that do not count.

use super::{cluster_goes_on, has_event, impostor, is_tunnel_ready, realm, register};
use crate::{
    impostor::NODES,
    quic::{DENIED, PORT, Quic, TAKEN},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_tests::{
    Kubectl, eventually, guest,
    hosts::{Realm, SERVER},
    network::{address, server, service},
    pods::{self, running},
    wait::contains,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};

/// A realm in which the good node has a server, `web`, and knows the impostor's Node; where the good node's tunnel is, the
/// server's address, and one of the impostor's range.
fn scene() -> (Realm, Kubectl, SocketAddr, IpAddr, IpAddr) {
    let (realm, kubectl) = realm();
    realm.push(&guest("probe.wasm"), "probe:1");
    let mut web = server("web", "web");
    web["spec"]["nodeName"] = "good".into();
    pods::apply(
        &kubectl,
        "default",
        &[web, service("web", "web", &json!({"ports": [{"port": 80, "targetPort": 8080}]}))],
    );
    running(&kubectl, "web");
    is_tunnel_ready(&kubectl, "good");
    register(&impostor(&realm, "evil"), "evil");
    let web = address(&kubectl, "web");
    let own = own_address(&kubectl);
    let tunnel = SocketAddr::new(realm.host("good").address().into(), PORT);
    (realm, kubectl, tunnel, web, own)
}

/// The fifth address of the impostor's range.
fn own_address(kubectl: &Kubectl) -> IpAddr {
    let node = kubectl.json("get node evil").unwrap();
    let range = node["spec"]["podCIDR"].as_str().unwrap().to_owned();
    let IpAddr::V4(start) = range.split('/').next().unwrap().parse().unwrap() else { panic!("{range}") };
    std::net::Ipv4Addr::from(u32::from(start) + 5).into()
}

/// The tunnel as the impostor dials it, once the good node knows its Node.
fn dial(realm: &Realm, tunnel: SocketAddr) -> Quic {
    eventually("the good node to know the other", || Quic::dial(realm.host("evil"), tunnel, &realm.credentials("evil")))
}

const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";

#[test]
fn a_node_sends_from_its_own_pods_to_pods_that_are_there_and_to_nothing_else() {
    let (mut realm, kubectl, tunnel, web, own) = scene();
    let evil = dial(&realm, tunnel);
    let from = SocketAddr::new(own, 4000);
    let to = |ip: IpAddr, port| SocketAddr::new(ip, port);
    // A pod runs before it listens.
    let said = eventually("what its own pods may do", || match evil.connect(from, to(web, 8080), ASK)? {
        (TAKEN, said) => Ok(said),
        (answer, _) => Err(format!("it is refused: {answer}")),
    });
    assert!(String::from_utf8_lossy(&said).starts_with("HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
    eventually("an echo for its own pods", || {
        if evil.is_echoed(from, to(web, 9002), b"from its own") { Ok(()) } else { Err("nothing came back".to_owned()) }
    });

    // In the name of others: the good node's pods, the control plane, a service, the world, the machine itself.
    let victim = address(&kubectl, "victim");
    let server: IpAddr = realm.host(SERVER).address().into();
    for other in
        [victim, server, "10.96.0.1".parse().unwrap(), "8.8.8.8".parse().unwrap(), "127.0.0.1".parse().unwrap()]
    {
        let (answer, said) = evil.connect(SocketAddr::new(other, 4000), to(web, 8080), ASK).unwrap();
        assert_eq!((answer, said.len()), (DENIED, 0), "traffic from {other}");
        assert!(!evil.is_echoed(SocketAddr::new(other, 4000), to(web, 9002), b"in another's name"), "from {other}");
    }
    has_event(&kubectl, "good", "PeerRefused", &format!("node evil was turned away: traffic from {victim}"));

    // To what is no pod of the good node: it is nobody's way to anywhere else.
    let cluster_ip = kubectl.json("get service web").unwrap()["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let vacant = match web {
        IpAddr::V4(ip) => IpAddr::from(std::net::Ipv4Addr::from(u32::from(ip) + 40)),
        IpAddr::V6(_) => panic!("{web}"),
    };
    let good: IpAddr = realm.host("good").address().into();
    let local: IpAddr = "127.0.0.1".parse().unwrap();
    for (ip, port) in
        [(vacant, 8080), (cluster_ip, 80), (server, 6443), (good, PORT), (local, 8080), (own, 80), (web, 1)]
    {
        let (answer, said) = evil.connect(from, to(ip, port), ASK).unwrap();
        assert_ne!(answer, TAKEN, "{ip}:{port} is reached");
        assert!(said.is_empty(), "{ip}:{port} says {said:?}");
    }
    drop(evil);
    cluster_goes_on(&mut realm, &kubectl);
}

#[test]
fn forged_frames_and_floods_on_the_tunnel_hurt_nobody() {
    let (mut realm, kubectl, tunnel, web, own) = scene();
    let evil = dial(&realm, tunnel);
    let (from, to) = (SocketAddr::new(own, 4000), SocketAddr::new(web, 8080));
    for garbage in [vec![0], vec![5; 100], vec![4; 3], vec![6; 20], vec![255; 4000], Vec::new()] {
        match evil.stream(garbage.clone()) {
            Ok((answer, said)) => assert_eq!((answer, said.len()), (DENIED, 0), "{garbage:?}"),
            // Without an answer, which is none to build on either.
            Err(why) => assert!(why.contains("stopped by peer") || why.contains("closed stream"), "{why}"),
        }
    }
    has_event(&kubectl, "good", "PeerRefused", "garbage");
    // Datagrams: unknown kinds, nothing, halves, parts that say too much, parts of nothing, one part thousands of times.
    let mut forged: Vec<Vec<u8>> = vec![vec![], vec![9; 50], vec![0], vec![0, 4, 1], vec![2, 4], vec![1; 6]];
    forged.push([&[1, 0, 0, 0, 1, 5, 2][..], &[0; 200]].concat());
    forged.push([&[1, 0, 0, 0, 2, 0, 0][..], &[0; 200]].concat());
    for number in 0..2000_u32 {
        forged.push([&[1][..], &number.to_be_bytes(), &[0, 255], &[7; 1000]].concat());
    }
    for bytes in forged {
        evil.throw_datagram(bytes);
    }
    let begun = evil.leave_half_begun(5000);
    assert!((1..5000).contains(&begun), "{begun} streams could be begun");
    // Whoever keeps to the rules is served, over another connection of the same node as well as by the good node itself.
    let other = eventually("another connection", || Quic::dial(realm.host("evil"), tunnel, &realm.credentials("evil")));
    let (answer, _) = eventually("an answer beside all that", || other.connect(from, to, ASK));
    assert_eq!(answer, TAKEN);
    cluster_goes_on(&mut realm, &kubectl);
}

#[test]
fn a_certificate_that_does_not_count_is_no_way_in() {
    let (mut realm, kubectl, tunnel, ..) = scene();
    let evil = dial(&realm, tunnel);
    let refused = |chain, key, why: &str| {
        let refusal = Quic::dial_with(realm.host("evil"), tunnel, chain, key).map(drop);
        let said = refusal.expect_err("it is let in");
        eventually("the node to say why", || contains(&realm.log("good"), why).map_err(|log| format!("{said}\n{log}")));
    };
    // Somebody else's certificate of the same cluster: a person's, with more rights than any node.
    let pki = realm.directory(SERVER).join("pki");
    let admin = |name: &str| pki.join(format!("admin.{name}"));
    refused(
        CertificateDer::pem_file_iter(admin("crt")).unwrap().map(Result::unwrap).collect(),
        PrivateKeyDer::from_pem_file(admin("key")).unwrap(),
        "no node's",
    );
    // The right names, signed by oneself.
    let key = KeyPair::generate().unwrap();
    let mut forged = CertificateParams::default();
    forged.distinguished_name.push(DnType::CommonName, "system:node:evil");
    forged.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    let forged = forged.self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let refusal = Quic::dial_with(realm.host("evil"), tunnel, vec![forged.der().clone()], key).map(drop);
    refusal.expect_err("a forged certificate is let in");
    // Credentials of a node that was never registered.
    let refusal = Quic::dial(realm.host("evil-2"), tunnel, &realm.credentials("evil-2")).map(drop);
    refusal.expect_err("a node that is none is let in");
    has_event(&kubectl, "good", "PeerRefused", "that of node \"evil-2\": it is no node that this one knows");

    // Stolen, and the Node removed: out at once, everywhere.
    kubectl.run("delete node evil").unwrap();
    let why = evil.ended();
    assert!(why.contains("the node is none of this cluster any more"), "{why}");
    let again = |realm: &Realm| Quic::dial(realm.host("evil"), tunnel, &realm.credentials("evil")).map(drop);
    again(&realm).expect_err("a removed node is let in");
    let thief = impostor(&realm, "evil");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "evil"}});
    let refusal = thief.create(NODES, "", &node).expect_err("a removed node registers again");
    assert_eq!(refusal.code(), tonic::Code::Unauthenticated, "{refusal}");
    assert!(refusal.message().contains("evil"), "{refusal}");
    // Also when somebody else has the name by now.
    kubectl.apply(&node.to_string()).unwrap();
    let refusal = thief.create(NODES, "", &node).expect_err("a stolen certificate counts again");
    assert_eq!(refusal.code(), tonic::Code::Unauthenticated, "{refusal}");
    eventually("the good node to know the new one", || {
        again(&realm).expect_err("a stolen certificate is let in");
        contains(&realm.log("good"), "revoked")
    });
    cluster_goes_on(&mut realm, &kubectl);
}

#[test]
fn a_machine_that_another_has_replaced_by_a_persons_word_is_out_at_once_also_for_other_nodes() {
    let (mut realm, kubectl, tunnel, ..) = scene();
    let replaced = dial(&realm, tunnel);
    let speaks = impostor(&realm, "evil");
    speaks.get(NODES, "", "evil").unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:evil");
    let request = STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap());
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "anew"}, "spec": {"request": request, "usages": ["client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet"}});
    kubectl.apply(&request.to_string()).unwrap();
    kubectl.run("certificate approve anew").unwrap();

    let why = replaced.ended();
    assert!(why.contains("the node is none of this cluster any more"), "{why}");
    eventually("the good node to say why", || {
        let again = Quic::dial(realm.host("evil"), tunnel, &realm.credentials("evil")).map(drop);
        again.expect_err("the certificate that was replaced is let in");
        contains(&realm.log("good"), "revoked")
    });
    let refusal = speaks.get(NODES, "", "evil").expect_err("the certificate that was replaced counts");
    assert_eq!(refusal.code(), tonic::Code::Unauthenticated, "{refusal}");
    // Its successor is welcome.
    let certificate = eventually("the certificate", || {
        let object = kubectl.json("get csr anew")?;
        let certificate = object["status"]["certificate"].as_str().ok_or_else(|| object["status"].to_string())?;
        STANDARD.decode(certificate).map_err(|error| error.to_string())
    });
    let certificate = CertificateDer::from_pem_slice(&certificate).unwrap();
    eventually("the other machine to be let in", || {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Quic::dial_with(realm.host("evil"), tunnel, vec![certificate.clone()], key).map(drop)
    });
    cluster_goes_on(&mut realm, &kubectl);
}
