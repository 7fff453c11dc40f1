//! Programs that nobody here wrote do their job: `SQLite` keeps rows on a volume across restarts of its container, PHP
//! answers a page through a service.
//!
//! That build of PHP (a CGI program for preview 1) has no sockets: it reads each request from a volume and writes its
//! answer there, and a container beside it speaks HTTP. `SQLite` is the one inside it: the stand-alone build at hand wants
//! `wasi_unstable`, which preview 1 replaced and no node offers. `tests/guests/toolchains/build.sh` fetches the programs.

use coracle_tests::{
    guest,
    network::{cluster, get, node_port, probe, service},
    pods::{self, container},
    wait::{contains, within},
};
use serde_json::json;
use std::{env, path::PathBuf, process::Command, time::Duration};

/// Compiling PHP takes a while on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(4);

/// Answers requests until the container is ended. What it says can only come from running PHP.
const PAGE: &str = r#"<?php
while (true) {
    foreach (glob("/requests/*.request") as $file) {
        $path = file_get_contents($file);
        unlink($file);
        $answer = strrev($path) . " by PHP " . PHP_MAJOR_VERSION . ", " . array_sum(range(1, 100)) . "\n";
        file_put_contents("/requests/part", $answer);
        rename("/requests/part", str_replace(".request", ".answer", $file));
    }
    usleep(5000);
}
"#;

/// One more row, and how many there are.
const ROWS: &str = r#"<?php
$data = new SQLite3("/data/runs.db");
$data->exec("create table if not exists runs (at text)");
$data->exec("insert into runs values (datetime('now'))");
echo "rows: ", $data->querySingle("select count(*) from runs"), "\n";
"#;

fn programs() -> PathBuf {
    if let Some(named) = env::var_os("CORACLE_TEST_TOOLCHAINS") {
        return PathBuf::from(named);
    }
    let built = Command::new(guest("toolchains/build.sh")).output().expect("build.sh runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    PathBuf::from(String::from_utf8_lossy(&built.stdout).trim())
}

#[test]
fn sqlite_keeps_rows_across_restarts() {
    let (cluster, kubectl) = cluster();
    cluster.push(&programs().join("php.wasm"), "php:1");
    let script =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "script"}, "data": {"run.php": ROWS}});
    let mut pod = pods::pod(
        "sqlite",
        "Always",
        &json!({"image": "php:1", "args": ["-q", "-f", "/script/run.php"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "script", "mountPath": "/script"}]}),
    );
    pod["spec"]["volumes"] =
        json!([{"name": "data", "emptyDir": {}}, {"name": "script", "configMap": {"name": "script"}}]);
    pods::apply(&kubectl, "default", &[script, pod]);
    within(START_LIMIT, "a second run that sees the row of the first", || {
        let object = kubectl.json("get pod sqlite")?;
        let log = kubectl.run("logs sqlite")?;
        let restarts = container(&object)["restartCount"].as_i64().unwrap_or(0);
        // Each run adds one row to those of all runs before it.
        let rows = log.lines().find_map(|line| line.strip_prefix("rows: ")?.parse::<i64>().ok());
        match rows {
            Some(rows) if rows >= 2 && (restarts..=restarts + 2).contains(&rows) => Ok(()),
            _ => Err(format!("{restarts} restarts: {log}")),
        }
    });
}

#[test]
fn php_answers_a_page_through_a_service() {
    let (cluster, kubectl) = cluster();
    cluster.push(&programs().join("php.wasm"), "php:1");
    let page =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "page"}, "data": {"loop.php": PAGE}});
    let requests = json!({"name": "requests", "mountPath": "/requests"});
    let mut pod = pods::pod(
        "php",
        "Always",
        &json!({"image": "php:1", "args": ["-q", "-d", "max_execution_time=0", "-f", "/page/loop.php"],
            "volumeMounts": [requests, {"name": "page", "mountPath": "/page"}]}),
    );
    let front = json!({"name": "front", "image": "probe:1", "args": ["front", "8080", "/requests"],
        "ports": [{"name": "http", "containerPort": 8080}], "volumeMounts": [requests]});
    pod["spec"]["containers"].as_array_mut().unwrap().push(front);
    pod["spec"]["volumes"] =
        json!([{"name": "requests", "emptyDir": {}}, {"name": "page", "configMap": {"name": "page"}}]);
    pod["metadata"]["labels"] = json!({"app": "php"});
    let http = json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    pods::apply(&kubectl, "default", &[page, pod, service("php", "php", &http)]);
    let expected = "olleh/ by PHP 8, 5050";
    within(START_LIMIT, "a page", || {
        let answer = get(node_port(&cluster, "php", "http"), "/hello").map_err(|error| {
            let log = kubectl.run("logs php -c main").unwrap_or_else(|error| error);
            format!("{error}\n{log}")
        })?;
        contains(&answer.text(), expected)
    });
    let log = probe(&kubectl, "reader", &[&["get", "php", "80", "/hello", "5"]]);
    assert!(log.lines().all(|line| line == format!("200 {expected}")), "{log}");
}
