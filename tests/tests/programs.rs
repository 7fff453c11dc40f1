//! Programs that nobody here wrote do their job: `SQLite` keeps rows on a volume across restarts of its container, PHP
//! answers a page through a service, Python and Ruby compute. `scripts/programs.sh` fetches them.
//!
//! This `SQLite` (3.26) is older than preview 1 and has no `PRAGMA integrity_check`: the newer one inside PHP checks what
//! it wrote. This PHP is made for CGI. It cannot serve by itself: it makes no sockets, opens no descriptor by number
//! (`php://fd/N`), and its `FastCGI` mode accepts on a number that is no descriptor. So the probe, in the container beside
//! it, takes the requests and hands each over as a file on a shared volume; all the rest is PHP (`tests/guests/php`).

use coracle_tests::{
    Cluster, Kubectl, guest,
    network::{cluster, endpoints, get, node_port, post, probe, service},
    pods::{self, container},
    wait::within,
};
use serde_json::{Value, json};
use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Compiling these takes up to 20 seconds of processor time each.
const START_LIMIT: Duration = Duration::from_mins(4);
/// How many runs of `SQLite`'s container it takes.
const RUNS: u64 = 3;

/// Adds a row and says how many there are. The constraint fails the run until there are as many as wanted; `SQLite` then
/// leaves out what follows.
const STATEMENTS: &[&str] = &[
    "create table if not exists run (id integer primary key, at text not null)",
    "insert into run (at) values (datetime('now'))",
    "select 'rows ' || count(*) from run",
    "create temporary table enough (rows check (rows >= 3)); insert into enough select count(*) from run",
    ".output /data/finished",
    "select 'sqlite ' || sqlite_version() || ' finished'",
];

fn push(cluster: &Cluster, name: &str) {
    let directory = env::var_os("CORACLE_TEST_PROGRAMS").filter(|path| !path.is_empty());
    let directory = directory.expect("CORACLE_TEST_PROGRAMS names no directory; run the tests with `make test`");
    cluster.push(&Path::new(&directory).join(format!("{name}.wasm")), &format!("{name}:1"));
}

/// The scripts of `tests/guests/php` as a config map.
fn scripts() -> Value {
    let files = fs::read_dir(guest("php")).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let data: serde_json::Map<_, _> =
        files.map(|path| (name(&path), fs::read_to_string(&path).unwrap().into())).collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "scripts"}, "data": data})
}

/// A container that runs one of the scripts, with volumes by name.
fn php(name: &str, script: &str, volumes: &[&str]) -> Value {
    let mut mounts = vec![json!({"name": "scripts", "mountPath": "/site", "readOnly": true})];
    mounts.extend(volumes.iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")})));
    json!({"name": name, "image": "php:1", "volumeMounts": mounts,
        "args": ["-q", "-d", "max_execution_time=0", "-f", format!("/site/{script}")]})
}

/// Puts a container beside the first one, and volumes for both.
fn beside(mut pod: Value, container: Value, volumes: &[&str]) -> Value {
    pod["spec"]["containers"].as_array_mut().unwrap().push(container);
    let empty = volumes.iter().map(|name| json!({"name": name, "emptyDir": {}}));
    let scripts = json!({"name": "scripts", "configMap": {"name": "scripts"}});
    pod["spec"]["volumes"] = empty.chain([scripts]).collect();
    pod
}

/// Waits for a pod's good end and answers it; compiling counts.
fn succeeded(kubectl: &Kubectl, pod: &str) -> Value {
    within(START_LIMIT, &format!("{pod} to succeed"), || {
        let object = kubectl.json(&format!("get pod {pod}"))?;
        if object["status"]["phase"] == "Succeeded" { Ok(object) } else { Err(object["status"].to_string()) }
    })
}

/// One test, since a cluster of its own for each would compile PHP twice.
#[test]
fn programs_do_their_job() {
    let (cluster, kubectl) = cluster();
    for name in ["sqlite", "php", "python", "ruby"] {
        push(&cluster, name);
    }
    pods::apply(&kubectl, "default", &[scripts(), sqlite_writes_and_php_reads(), php_behind_a_front()]);
    let http = json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    pods::apply(&kubectl, "default", &[service("book", "book", &http), python(), ruby()]);
    println!("SQLite keeps rows");
    rows_are_kept_across_restarts(&kubectl);
    println!("PHP answers a page");
    a_page_is_answered_through_the_service(&cluster, &kubectl);
    println!("Python and Ruby compute");
    succeeded(&kubectl, "python");
    succeeded(&kubectl, "ruby");
    assert_eq!(kubectl.run("logs python").unwrap(), "{\"sum\": 5050, \"version\": [3, 11]}\n");
    assert_eq!(kubectl.run("logs ruby").unwrap(), "{\"sum\":5050,\"version\":\"3.2.0\"}\n");
}

fn sqlite_writes_and_php_reads() -> Value {
    let arguments: Vec<_> = ["/data/rows.db"].iter().chain(STATEMENTS).collect();
    let mounts = json!([{"name": "data", "mountPath": "/data"}]);
    let writer = json!({"image": "sqlite:1", "args": arguments, "volumeMounts": mounts});
    beside(pods::pod("rows", "OnFailure", &writer), php("audit", "audit.php", &["data"]), &["data"])
}

fn rows_are_kept_across_restarts(kubectl: &Kubectl) {
    let pod = succeeded(kubectl, "rows");
    assert_eq!(container(&pod)["restartCount"], RUNS - 1, "{}", pod["status"]);
    assert_eq!(kubectl.run("logs rows -c main").unwrap(), format!("rows {RUNS}\n"));
    let before = kubectl.run("logs rows -c main --previous").unwrap();
    assert!(before.starts_with(&format!("rows {}\n", RUNS - 1)) && before.contains("constraint failed"), "{before}");
    let audit = kubectl.run("logs rows -c audit").unwrap();
    assert_eq!(audit, "told: sqlite 3.26.0 finished\nrows: 1 2 3\nintegrity: ok\n");
}

fn php_behind_a_front() -> Value {
    let front = json!({"image": "probe:1", "args": ["front", "8080", "/exchange"],
        "ports": [{"name": "http", "containerPort": 8080}], "volumeMounts": [{"name": "exchange", "mountPath": "/exchange"}]});
    let volumes = ["exchange", "data"];
    let mut pod = beside(pods::pod("book", "Always", &front), php("php", "serve.php", &volumes), &volumes);
    pod["metadata"]["labels"] = json!({"app": "book"});
    pod
}

fn a_page_is_answered_through_the_service(cluster: &Cluster, kubectl: &Kubectl) {
    within(START_LIMIT, "both containers to be ready", || {
        let pod = kubectl.json("get pod book")?;
        let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let ready = all.iter().filter(|one| one["ready"] == true).count();
        if ready == 2 { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    endpoints(kubectl, "book", 1);

    let address = node_port(cluster, "book", "http");
    let page = get(address, "/?of=A%26B").unwrap();
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(page.text(), "<title>Guest book of A&amp;B, 0 names</title>\n<p>Written by PHP 8.2.0</p>\n");
    let named = post(address, "/", b"name=%3Cada%3E").unwrap();
    assert_eq!(named.status, 200, "{}", named.text());
    let page = post(address, "/", "name=gr\u{fc}n".as_bytes()).unwrap().text();
    assert!(page.contains("<li>1. &lt;ADA&gt;</li>\n<li>2. GR\u{dc}N</li>\n"), "{page}");
    assert_eq!(
        get(address, "/other").map(|answer| (answer.status, answer.text())),
        Ok((404, "no such page".to_owned()))
    );
    let failed = post(address, "/", b"").unwrap();
    assert!(failed.status == 500 && failed.text().starts_with("PDOException: "), "{failed:?}");

    // Pods see the same by the cluster IP and by name; the probe prints first lines.
    let ip = kubectl.json("get service book").unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let log = probe(kubectl, "reader", &[&["get", &ip, "80", "/?of=ip"], &["get", "book", "80", "/?of=name", "5"]]);
    let of = |door: &str| format!("200 <title>Guest book of {door}, 2 names</title>\n");
    assert_eq!(log, of("ip") + &of("name").repeat(5));
}

fn python() -> Value {
    let script = "import json, sys\nprint(json.dumps({'sum': sum(range(101)), 'version': sys.version_info[:2]}))";
    pods::pod("python", "Never", &json!({"image": "python:1", "args": ["-c", script]}))
}

fn ruby() -> Value {
    let script = "require 'json'; puts({sum: (0..100).sum, version: RUBY_VERSION}.to_json)";
    pods::pod("ruby", "Never", &json!({"image": "ruby:1", "args": ["-e", script]}))
}
