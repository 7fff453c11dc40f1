//! What people and attackers send that is wrong: a prompt clear error, bounded memory, nothing half-written.

use coracle_tests::{Cluster, eventually, guest, processes, wait::contains};
use serde_json::json;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

/// Sends `body` over TLS with curl and the admin's token; answers status code and body.
fn post(cluster: &Cluster, path: &str, content_type: &str, body: &[u8]) -> (String, String) {
    let token = fs::read_to_string(cluster.data_dir().join("admin.token")).unwrap();
    let server = cluster.kubectl().run("config view --minify -o jsonpath={.clusters[0].cluster.server}").unwrap();
    let mut child = Command::new("curl")
        .args(["--silent", "--insecure", "--max-time", "30", "--data-binary", "@-", "--write-out", "\n%{http_code}"])
        .args([
            "-H",
            &format!("Authorization: Bearer {}", token.trim()),
            "-H",
            &format!("Content-Type: {content_type}"),
        ])
        .arg(format!("{}{path}", server.trim()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = body.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output().unwrap();
    drop(writer.join());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (answer, code) = text.rsplit_once('\n').unwrap();
    (code.to_owned(), answer.to_owned())
}

#[test]
fn bodies_that_are_no_objects_are_refused_promptly() {
    let cluster = Cluster::start();
    let pods = "/api/v1/namespaces/default/pods";
    let nested = |count: usize| [vec![b'['; count], vec![b']'; count]].concat();
    let deep_object = |count: usize| [br#"{"a":"#.repeat(count), b"1".to_vec(), vec![b'}'; count]].concat();
    let json_type = "application/json";
    let table: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        (json_type, b"apiVersion: v1".to_vec(), "400", "expected"),
        (
            json_type,
            b"{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"\xff\xfe\"}}".to_vec(),
            "400",
            "UTF-8",
        ),
        (json_type, nested(5_000_000), "413", "too large"),
        (json_type, nested(100_000), "400", "nesting"),
        (json_type, deep_object(100_000), "400", "nesting"),
        (
            json_type,
            br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"},"spec":{"containers":"x"}}"#.to_vec(),
            "400",
            "spec.containers",
        ),
        (json_type, br#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"x"}}"#.to_vec(), "400", "Pod"),
        (json_type, b"".to_vec(), "400", ""),
        ("application/yaml", b"a: [".to_vec(), "400", ""),
        ("application/vnd.kubernetes.protobuf", b"k8s\0".to_vec(), "415", ""),
        ("text/plain", b"hello".to_vec(), "415", ""),
    ];
    let before = processes::pss_kib(cluster.pid()).unwrap();
    for (content_type, body, code, part) in table {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let (answered, answer) = post(&cluster, pods, content_type, &body);
        assert_eq!(answered, code, "{shown}: {answer}");
        assert!(answer.contains("\"kind\":\"Status\""), "{shown}: {answer}");
        assert!(answer.to_lowercase().contains(&part.to_lowercase()), "{shown}: {answer:.400} lacks {part}");
    }
    let after = processes::pss_kib(cluster.pid()).unwrap();
    assert!(after < before + 96 * 1024, "bad bodies cost memory: {before} KiB before, {after} KiB after");
    assert!(!cluster.kubectl().run("get pods -o name").unwrap().contains("pod/"), "something was stored");
}

#[test]
fn strangers_are_turned_away() {
    let cluster = Cluster::start();
    let server = cluster.kubectl().run("config view --minify -o jsonpath={.clusters[0].cluster.server}").unwrap();
    let address = server.trim().strip_prefix("https://").unwrap().to_owned();
    let code = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--insecure",
                "--max-time",
                "30",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
            ])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let url = |path: &str| format!("https://{address}{path}");
    assert_eq!(code(&[&url("/api/v1/pods")]), "401");
    assert_eq!(code(&["-H", "Authorization: Bearer wrong", &url("/api/v1/pods")]), "401");
    assert_eq!(code(&[&url("/v2/")]), "401");
    assert_eq!(code(&[&url("/readyz")]), "200");
    // Not TLS at all: the connection ends, the server lives.
    let mut plain = TcpStream::connect(&address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer));
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    cluster.kubectl().run("get nodes").unwrap();
}

#[test]
fn files_that_are_no_workloads_are_refused() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let good = fs::read(guest("toolbox.wasm")).unwrap();
    for (name, bytes, part) in [
        ("script.wasm", b"#!/bin/sh\n".to_vec(), "not WebAssembly"),
        ("empty.wasm", Vec::new(), "not WebAssembly"),
        ("truncated.wasm", good[..good.len() / 2].to_vec(), "not valid WebAssembly"),
        ("library.wasm", b"\0asm\x01\0\0\0".to_vec(), "nothing to run"),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = cluster.coracle_arguments(&["push", &path.display().to_string(), "bad:1"]).unwrap_err();
        assert!(error.contains(part), "{name}: {error}");
    }
    let error = cluster.coracle("push /nowhere/x.wasm bad:1").unwrap_err();
    assert!(error.contains("cannot read /nowhere/x.wasm"), "{error}");
    // A registry client that checks nothing gets garbage in; the pod says what is wrong and others go on.
    let manifest = foreign_push(&cluster, "garbage", b"this is no wasm");
    assert_eq!(manifest, "201");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "garbage"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "garbage:1"}]}});
    let kubectl = cluster.kubectl();
    kubectl.apply(&pod.to_string()).unwrap();
    eventually("the reason", || contains(&kubectl.run("describe pod garbage")?.to_lowercase(), "not webassembly"));
}

/// Pushes bytes as a wasm layer with nothing but curl.
fn foreign_push(cluster: &Cluster, repository: &str, layer: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    let config = b"{}";
    for blob in [layer, config.as_slice()] {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={}", digest(blob));
        let (code, answer) = post(cluster, &path, "application/octet-stream", blob);
        assert_eq!(code, "201", "{answer}");
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": digest(config), "size": config.len()},
        "layers": [{"mediaType": "application/wasm", "digest": digest(layer), "size": layer.len()}],
    })
    .to_string();
    put(cluster, &format!("/v2/{repository}/manifests/1"), "application/vnd.oci.image.manifest.v1+json", &manifest)
}

fn put(cluster: &Cluster, path: &str, content_type: &str, body: &str) -> String {
    let token = fs::read_to_string(cluster.data_dir().join("admin.token")).unwrap();
    let server = cluster.kubectl().run("config view --minify -o jsonpath={.clusters[0].cluster.server}").unwrap();
    let output = Command::new("curl")
        .args(["--silent", "--insecure", "--max-time", "30", "--output", "/dev/null", "--write-out", "%{http_code}"])
        .args(["-X", "PUT", "--data-binary", body, "-H", &format!("Content-Type: {content_type}")])
        .args(["-H", &format!("Authorization: Bearer {}", token.trim()), &format!("{}{path}", server.trim())])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}
