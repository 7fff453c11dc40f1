//! `kubectl exec`, `attach` and `port-forward`, over SPDY and over WebSocket, whichever the kubectl speaks.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    network::{get, server, service},
    pods,
    wait::contains,
};
use serde_json::json;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    process::{Child, Output, Stdio},
    sync::mpsc,
    thread,
};

/// Bytes that go through standard input and come back.
const LARGE: usize = 8 << 20;

fn each(test: impl Fn(&Cluster, &Kubectl)) {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    cluster.push(&guest("toolbox-p1.wasm"), "toolbox-p1:1");
    cluster.push(&guest("probe.wasm"), "probe:1");
    for kubectl in cluster.kubectls() {
        test(&cluster, &kubectl);
    }
}

/// Runs kubectl with `input` on standard input; standard output, standard error and the exit code.
fn run(kubectl: &Kubectl, words: &str, input: &[u8]) -> (Vec<u8>, String, i32) {
    let mut command = kubectl.command(words.split(' '));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl runs");
    let mut stdin = child.stdin.take().expect("standard input");
    let input = input.to_vec();
    let writer = thread::spawn(move || stdin.write_all(&input));
    let Output { status, stdout, stderr } = child.wait_with_output().expect("kubectl ends");
    // kubectl may end before it has read everything.
    drop(writer.join());
    (stdout, String::from_utf8_lossy(&stderr).into_owned(), status.code().unwrap_or(-1))
}

fn text(kubectl: &Kubectl, words: &str) -> String {
    let (stdout, stderr, code) = run(kubectl, words, b"");
    assert_eq!(code, 0, "kubectl {words}: {stderr}");
    String::from_utf8_lossy(&stdout).into_owned()
}

fn fails(kubectl: &Kubectl, words: &str, part: &str) {
    let (stdout, stderr, code) = run(kubectl, words, b"");
    assert_ne!(code, 0, "kubectl {words}: {}", String::from_utf8_lossy(&stdout));
    assert!(stderr.contains(part), "kubectl {words} does not say {part:?}: {stderr}");
}

/// Bytes in which a piece that is lost, doubled or moved shows.
fn pattern(length: usize) -> Vec<u8> {
    (0_u64..).flat_map(|number| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()).take(length).collect()
}

#[test]
fn commands_run_in_containers_and_end_with_their_own_code() {
    each(|_, kubectl| {
        let mut two = pods::toolbox("two", "Never", &["wait-eof"]);
        let mut side = two["spec"]["containers"][0].clone();
        side["name"] = json!("side");
        two["spec"]["containers"] = json!([two["spec"]["containers"][0], side]);
        let done = pods::toolbox("done", "Never", &["echo", "x"]);
        // Codes beyond 1 are for preview 1.
        let coded = pods::pod("coded", "Never", &json!({"image": "toolbox-p1:1", "args": ["wait-eof"]}));
        pods::apply(kubectl, "default", &[pods::toolbox("p", "Never", &["wait-eof"]), two, done, coded]);
        pods::running(kubectl, "p");
        pods::running(kubectl, "coded");
        pods::running(kubectl, "two");
        pods::phase(kubectl, "done", "Succeeded");
        assert_eq!(text(kubectl, "exec p -- toolbox echo hello there"), "hello there\n");
        for code in [1, 7, 100] {
            let (_, stderr, ended) = run(kubectl, &format!("exec coded -- toolbox-p1 exit {code}"), b"");
            assert_eq!(ended, code, "{stderr}");
            assert!(stderr.contains(&format!("command terminated with exit code {code}")), "{stderr}");
        }
        let (stdout, stderr, code) = run(kubectl, "exec p -- toolbox warn careful -- echo fine", b"");
        assert_eq!((stdout.as_slice(), stderr.as_str(), code), (&b"fine\n"[..], "careful\n", 0));
        let large = pattern(LARGE);
        let (stdout, stderr, code) = run(kubectl, "exec -i p -- toolbox copy", &large);
        assert_eq!((code, stdout.len(), stderr.as_str()), (0, LARGE, ""));
        assert!(stdout == large, "every byte comes back, in order");
        assert_eq!(text(kubectl, "exec two -c side -- toolbox echo side"), "side\n");
        fails(kubectl, "exec two -c nobody -- toolbox echo x", "nobody");
        fails(kubectl, "exec missing -- toolbox echo x", "pods \"missing\" not found");
        fails(kubectl, "exec done -- toolbox echo x", "cannot exec into a container in a completed pod");
        fails(kubectl, "port-forward done 0:80", "pod is not running. Current status=Succeeded");
        // The container itself went on.
        assert!(pods::container(&pods::running(kubectl, "p"))["restartCount"] == 0);
        text(kubectl, "delete pod p two done coded --now");
    });
}

#[test]
fn attaching_shows_what_comes_and_passes_input_on() {
    each(|_, kubectl| {
        let mut copy = pods::toolbox("copy", "Never", &["copy"]);
        copy["spec"]["containers"][0]["stdin"] = json!(true);
        copy["spec"]["containers"][0]["stdinOnce"] = json!(true);
        pods::apply(kubectl, "default", &[copy, pods::toolbox("counts", "Never", &["count", "0.05"])]);
        pods::running(kubectl, "copy");
        pods::running(kubectl, "counts");
        let (stdout, stderr, code) = run(kubectl, "attach -i copy", b"typed\n");
        assert_eq!((String::from_utf8_lossy(&stdout).as_ref(), code), ("typed\n", 0), "{stderr}");
        pods::phase(kubectl, "copy", "Succeeded");
        let mut command = kubectl.command(["attach", "counts"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("kubectl runs");
        let mut lines = BufReader::new(child.stdout.take().expect("standard output")).lines();
        let first: u64 = lines.next().expect("a line").expect("text").parse().expect("a number");
        let second: u64 = lines.next().expect("a line").expect("text").parse().expect("a number");
        assert_eq!(second, first + 1, "what comes, as it comes");
        child.kill().expect("kubectl ends");
        child.wait().expect("kubectl ends");
        pods::running(kubectl, "counts");
        text(kubectl, "delete pod copy counts --now");
    });
}

#[test]
fn files_are_copied_both_ways() {
    each(|_, kubectl| {
        let here = tempfile::tempdir().expect("a directory");
        let path = |name: &str| here.path().join(name).display().to_string();
        let mut holder = pods::toolbox("holder", "Never", &["wait-eof"]);
        holder["spec"]["containers"][0]["volumeMounts"] = json!([
            {"name": "data", "mountPath": "/data"}, {"name": "small", "mountPath": "/small"},
            {"name": "fixed", "mountPath": "/fixed", "readOnly": true},
        ]);
        holder["spec"]["volumes"] = json!([
            {"name": "data", "emptyDir": {}}, {"name": "small", "emptyDir": {"sizeLimit": "1Mi"}},
            {"name": "fixed", "emptyDir": {}},
        ]);
        pods::apply(kubectl, "default", &[holder]);
        pods::running(kubectl, "holder");
        // A tree with a large file, an empty one, and names too long for a header.
        let large = pattern(LARGE);
        let deep = format!("{}/{}", "d".repeat(120), "e".repeat(120));
        let tree = here.path().join("tree");
        fs::create_dir_all(tree.join(&deep)).expect("directories");
        for (name, bytes) in [("large", large.as_slice()), ("empty", b""), (&format!("{deep}/leaf"), b"leaf")] {
            fs::write(tree.join(name), bytes).expect("a file");
        }
        text(kubectl, &format!("cp {} holder:/data/one", path("tree/large")));
        assert_eq!(text(kubectl, "exec holder -- toolbox size /data/one"), format!("{LARGE}\n"));
        text(kubectl, &format!("cp holder:/data/one {}", path("one")));
        assert!(fs::read(path("one")).expect("a file") == large, "every byte comes back, in order");
        text(kubectl, &format!("cp {} holder:/data", path("tree")));
        text(kubectl, &format!("cp holder:/data/tree {}", path("back")));
        assert!(fs::read(here.path().join("back/large")).expect("a file") == large);
        assert_eq!(fs::read(here.path().join("back/empty")).expect("a file"), b"");
        assert_eq!(fs::read(here.path().join("back").join(&deep).join("leaf")).expect("a file"), b"leaf");
        // What the container may not, its tools may not either.
        for to in ["/small/large", "/fixed/large"] {
            fails(kubectl, &format!("cp {} holder:{to}", path("tree/large")), "tar:");
        }
        // Only newer ones pass on what tar says.
        fails(kubectl, &format!("cp holder:/data/nothing {}", path("nothing")), "exit code 2");
        text(kubectl, "delete pod holder --now");
    });
}

/// A `kubectl port-forward` that runs, and where it listens.
struct Forward {
    child: Child,
    address: SocketAddr,
    errors: mpsc::Receiver<String>,
}

impl Forward {
    fn start(kubectl: &Kubectl, words: &str) -> Self {
        let mut command =
            kubectl.command(["port-forward", "--address", "127.0.0.1"].into_iter().chain(words.split(' ')));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output"));
        let mut stderr = BufReader::new(child.stderr.take().expect("standard error"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next()?.parse().ok());
        let Some(address) = address else {
            let mut said = String::new();
            stderr.read_to_string(&mut said).expect("text");
            panic!("kubectl port-forward {words}: {line:?} {said}");
        };
        let (sender, errors) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        // It says more for each connection, and stops when nobody reads it.
        thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(drop));
        Self { child, address, errors }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn ports_are_forwarded_for_many_connections_at_once() {
    each(|_, kubectl| {
        let ports = json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
        pods::apply(kubectl, "default", &[server("web", "web"), service("web", "web", &ports)]);
        pods::until(kubectl, "web", "ready", |pod| pods::container(pod)["ready"] == true);
        for what in ["pod/web :8080", "service/web :80"] {
            let forward = Forward::start(kubectl, what);
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..5 {
                            let answer = get(forward.address, "/").unwrap_or_else(|error| panic!("{what}: {error}"));
                            assert_eq!(answer.status, 200, "{}", answer.head);
                        }
                    });
                }
            });
        }
        let forward = Forward::start(kubectl, "pod/web :81");
        assert!(get(forward.address, "/").is_err(), "nobody listens there");
        eventually("the reason", || {
            let said: Vec<String> = forward.errors.try_iter().collect();
            contains(&said.join("\n"), "error forwarding port 81 to pod web")
        });
        text(kubectl, "delete pod/web service/web --now");
    });
}

#[test]
fn top_and_statistics_show_what_pods_use() {
    each(|_, kubectl| {
        pods::apply(kubectl, "default", &[pods::toolbox("busy", "Never", &["spin"])]);
        pods::running(kubectl, "busy");
        // A run has a rate from its start on.
        eventually("top pods", || {
            let said = kubectl.run("top pods --containers --no-headers")?;
            let cells: Vec<&str> = said.split_whitespace().collect();
            match cells.as_slice() {
                ["busy", "main", cpu, memory] if cpu.ends_with('m') && memory.ends_with("Mi") && *cpu != "0m" => Ok(()),
                _ => Err(said),
            }
        });
        // The machine's needs two looks, some seconds apart.
        eventually("top nodes", || {
            let nodes = kubectl.run("top nodes --no-headers")?;
            if nodes.starts_with("node-1 ") && nodes.contains('%') { Ok(()) } else { Err(nodes) }
        });
        let summary = text(kubectl, "get --raw /api/v1/nodes/node-1/proxy/stats/summary");
        assert!(summary.contains("\"podRef\"") && summary.contains("\"busy\""), "{summary}");
        let metrics = text(kubectl, "get --raw /api/v1/nodes/node-1/proxy/metrics/resource");
        assert!(metrics.lines().any(|line| line.starts_with("container_cpu_usage_seconds_total{")), "{metrics}");
        fails(kubectl, "get --raw /api/v1/nodes/node-1/proxy/logs", "could not find the requested resource");
        text(kubectl, "delete pod busy --now");
    });
}
