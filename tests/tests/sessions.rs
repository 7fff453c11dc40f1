//! Commands in containers, attaching and forwarded ports, by the `coracle` command: what goes in, what comes out, and what
//! happens when one side goes away.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    network::{get, post, server},
    pods::{self, container, pod, running, toolbox, until},
    site::binary,
    wait::contains,
};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Commands that may run in a container at a time.
const COMMANDS_MAX: usize = 16;
/// How long a line may take on a busy machine.
const LINE_WAIT: Duration = Duration::from_mins(3);

fn cluster() -> (Cluster, Kubectl) {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    cluster.push(&guest("probe.wasm"), "probe:1");
    let kubectl = cluster.kubectl();
    (cluster, kubectl)
}

/// The `coracle` command, with its streams piped.
fn coracle(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary().unwrap());
    command.args(arguments).env("KUBECONFIG", cluster.kubeconfig());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `coracle exec [OPTION…] POD -- COMMAND…` with this input, to its end.
fn exec(cluster: &Cluster, options: &[&str], command: &[&str], input: &[u8]) -> Output {
    let mut child = coracle(cluster, &[&["exec"], options, &["--"], command].concat()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that does not read to the end closes it early.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Lines as they come, to their end.
fn lines_of(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// A command that goes on, with its lines as they come.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Waits for a line on standard error.
    fn until_error(&mut self, part: &str) {
        let errors = lines_of(self.child.stderr.take().unwrap());
        loop {
            let line = errors.recv_timeout(LINE_WAIT).unwrap_or_else(|error| panic!("no word of {part:?}: {error}"));
            if line.contains(part) {
                return;
            }
        }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LINE_WAIT).unwrap_or_else(|error| panic!("no line came: {error}"))
    }

    fn until_line(&self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    fn errors(&mut self) -> String {
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        errors
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// As many commands as may run in a container at a time: if one was left behind, the last of these has no room.
fn fill_with_commands(cluster: &Cluster, pod: &str) -> Result<(), String> {
    let command = ["exec", "-i", pod, "--", "echo", "here", "--", "wait-eof"];
    let all: Vec<_> = (0..COMMANDS_MAX).map(|_| Running::start(coracle(cluster, &command))).collect();
    let heard = all.iter().all(|one| one.lines.recv_timeout(LINE_WAIT).is_ok_and(|line| line == "here"));
    if heard { Ok(()) } else { Err("some did not start".to_owned()) }
}

#[test]
fn a_command_has_output_and_an_exit_code() {
    let (cluster, kubectl) = cluster();
    let mut idle = toolbox("idle", "Always", &["wait-eof"]);
    idle["spec"]["containers"][0]["env"] = json!([{"name": "WHOSE", "value": "the container's"}]);
    idle["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    idle["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    pods::apply(&kubectl, "default", &[idle]);
    running(&kubectl, "idle");

    let said = exec(&cluster, &["idle"], &["echo", "hello", "--", "warn", "oops", "--", "fail"], b"");
    assert_eq!((text(&said.stdout).as_str(), said.status.code()), ("hello\n", Some(1)));
    assert!(text(&said.stderr).starts_with("oops\n"), "{}", text(&said.stderr));
    assert!(text(&said.stderr).contains("command terminated with exit code 1"), "{}", text(&said.stderr));
    // The module by its name, with the same arguments, environment and volumes.
    let said = exec(&cluster, &["pod/idle", "-c", "main"], &["toolbox", "write", "/data/x", "kept"], b"");
    assert_eq!((text(&said.stdout).as_str(), said.status.code()), ("done\n", Some(0)), "{}", text(&said.stderr));
    let said = exec(&cluster, &["idle"], &["cat", "/data/x", "--", "env"], b"");
    assert!(text(&said.stdout).starts_with("kept\n") && text(&said.stdout).contains("WHOSE=the container's\n"));
    // A trap says where.
    let said = exec(&cluster, &["idle"], &["trap"], b"");
    assert_eq!(said.status.code(), Some(134));
    assert!(text(&said.stderr).contains("wasm trap: wasm `unreachable`"), "{}", text(&said.stderr));
    // Without a terminal here there is none there.
    let said = exec(&cluster, &["-it", "idle"], &["echo", "one", "--", "warn", "two", "--", "terminal"], b"");
    assert_eq!(text(&said.stdout), "one\nterminals: none\n");
    let warning = "Unable to use a TTY - input is not a terminal or the right kind of file\n";
    assert_eq!(text(&said.stderr), format!("{warning}two\n"));

    for (options, part) in [
        (&["nobody"][..], "pods \"nobody\" not found"),
        (&["idle", "-c", "other"], "container other is not valid for pod idle"),
    ] {
        let said = exec(&cluster, options, &["echo"], b"");
        assert_eq!(said.status.code(), Some(1));
        assert!(text(&said.stderr).contains(part), "{}", text(&said.stderr));
    }
    let log = kubectl.run("logs idle").unwrap();
    assert_eq!(log, "waiting\n", "what commands write is not the container's log");
    assert_eq!(container(&running(&kubectl, "idle"))["restartCount"], 0);
}

#[test]
fn much_goes_in_and_out_and_many_at_once() {
    let (cluster, kubectl) = cluster();
    // It computes all the time, and yet commands run beside it.
    pods::apply(&kubectl, "default", &[toolbox("spinner", "Always", &["spin"])]);
    running(&kubectl, "spinner");
    let input: Vec<u8> = (0..8_000_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    let sum: u64 = input.iter().map(|byte| u64::from(*byte)).sum();
    let said = exec(&cluster, &["-i", "spinner"], &["tally"], &input);
    assert_eq!(text(&said.stdout), format!("8000000 bytes, sum {sum}\n"), "{}", text(&said.stderr));
    thread::scope(|scope| {
        let both = [0_u8, 1].map(|seed| {
            let (cluster, input) = (&cluster, input.iter().map(|byte| byte ^ seed).take(3_000_000).collect::<Vec<_>>());
            scope.spawn(move || {
                let said = exec(cluster, &["-i", "spinner"], &["copy"], &input);
                assert!(said.stdout == input, "{} bytes: {}", said.stdout.len(), text(&said.stderr));
            })
        });
        for one in both {
            one.join().unwrap();
        }
    });
    let said = exec(&cluster, &["spinner"], &["fill", "20000000"], b"");
    assert_eq!((said.stdout.len(), said.status.code()), (20_000_000, Some(0)), "{}", text(&said.stderr));
    // Who has no input sees its end at once, and one that reads none may be given much.
    let said = exec(&cluster, &["spinner"], &["tally"], b"");
    assert_eq!(text(&said.stdout), "0 bytes, sum 0\n");
    let said = exec(&cluster, &["-i", "spinner"], &["echo", "x"], &input);
    assert_eq!((text(&said.stdout).as_str(), said.status.code()), ("x\n", Some(0)));
}

#[test]
fn a_command_ends_with_its_user_and_with_its_container() {
    let (cluster, kubectl) = cluster();
    pods::apply(&kubectl, "default", &[toolbox("idle", "Always", &["wait-eof"])]);
    running(&kubectl, "idle");
    // One that reads nothing, with input on its way; one that floods a user who does not read; one that spins.
    for (options, command) in [
        (&["-i"][..], &["echo", "ready", "--", "sleep", "1000"][..]),
        (&[], &["flood", "1000000000"]),
        (&[], &["spin"]),
    ] {
        // As many as there is room for, also when none of them is gone yet.
        for _ in 0..COMMANDS_MAX / 3 {
            let mut one = Running::start(coracle(&cluster, &[&["exec"], options, &["idle", "--"], command].concat()));
            one.line();
            if !options.is_empty() {
                let mut stdin = one.child.stdin.take().unwrap();
                thread::spawn(move || drop(stdin.write_all(&vec![0; 8 << 20])));
            }
        }
    }
    eventually("all of them to be gone", || {
        let output = coracle(&cluster, &["exec", "idle", "--", "echo", "x"]).stdin(Stdio::null()).output().unwrap();
        if output.status.success() { Ok(()) } else { Err(text(&output.stderr)) }
    });
    eventually("room for as many as there may be", || fill_with_commands(&cluster, "idle"));
    let mut held = Running::start(coracle(&cluster, &["exec", "idle", "--", "echo", "held", "--", "sleep", "1000"]));
    held.until_line("held");
    kubectl.run("delete pod idle --wait=false").unwrap();
    assert_eq!(held.child.wait().unwrap().code(), Some(137), "{}", held.errors());
    eventually("the pod to be gone", || kubectl.run("get pod idle").map_or(Ok(()), Err));
}

#[test]
fn a_command_counts_into_its_containers_memory() {
    let (cluster, kubectl) = cluster();
    let limited = json!({"image": "toolbox:1", "args": ["wait-eof"], "resources": {"limits": {"memory": "48Mi"}}});
    pods::apply(
        &kubectl,
        "default",
        &[pod("limited", "Always", &limited), toolbox("neighbour", "Always", &["wait-eof"])],
    );
    running(&kubectl, "limited");
    running(&kubectl, "neighbour");
    let said = exec(&cluster, &["limited"], &["alloc", "8"], b"");
    assert_eq!(said.status.code(), Some(0), "{}", text(&said.stderr));
    let said = exec(&cluster, &["limited"], &["alloc", "200"], b"");
    assert_eq!(said.status.code(), Some(137), "{}", text(&said.stderr));
    // As on a kernel that kills a container as a whole.
    let object = until(&kubectl, "limited", "killed with it", |object| {
        container(object)["lastState"]["terminated"]["reason"] == "OOMKilled"
    });
    assert_eq!(container(&object)["lastState"]["terminated"]["exitCode"], 137);
    assert_eq!(container(&running(&kubectl, "neighbour"))["restartCount"], 0);
}

#[test]
fn attaching_shows_what_comes_and_takes_input() {
    let (cluster, kubectl) = cluster();
    let copies = |once: bool| json!({"image": "toolbox:1", "args": ["copy"], "stdin": true, "stdinOnce": once});
    let counter = json!({"image": "toolbox:1", "args": ["count", "0.05"]});
    pods::apply(
        &kubectl,
        "default",
        &[
            pod("counter", "Always", &counter),
            pod("open", "Never", &copies(false)),
            pod("once", "Never", &copies(true)),
        ],
    );
    for name in ["counter", "open", "once"] {
        running(&kubectl, name);
    }
    let watching = Running::start(coracle(&cluster, &["attach", "counter"]));
    let first: u64 = watching.line().parse().unwrap();
    assert_eq!(watching.line().parse::<u64>().unwrap(), first + 1, "line by line, from where it is");
    // What is typed comes back, and the log has it too.
    let mut typing = Running::start(coracle(&cluster, &["attach", "-i", "open"]));
    let mut stdin = typing.child.stdin.take().unwrap();
    stdin.write_all(b"over and over\n").unwrap();
    assert_eq!(typing.line(), "over and over");
    drop((stdin, typing));
    // Its end was not the container's, so that the next one can go on.
    let mut again = Running::start(coracle(&cluster, &["attach", "-i", "open"]));
    again.child.stdin.take().unwrap().write_all(b"again\n").unwrap();
    assert_eq!(again.line(), "again");
    eventually("the log", || contains(&kubectl.run("logs open")?, "over and over\nagain\n"));
    // Where the first end is the end.
    let mut last = Running::start(coracle(&cluster, &["attach", "-i", "once"]));
    last.child.stdin.take().unwrap().write_all(b"last words\n").unwrap();
    assert_eq!(last.line(), "last words");
    assert_eq!(last.child.wait().unwrap().code(), Some(0));
    pods::phase(&kubectl, "once", "Succeeded");
    let said = coracle(&cluster, &["attach", "once"]).stdin(Stdio::null()).output().unwrap();
    assert!(text(&said.stderr).contains("current phase is Succeeded"), "{}", text(&said.stderr));
}

/// `coracle port-forward` to these ports, and where each is reached.
fn forward(cluster: &Cluster, target: &str, ports: &[&str]) -> (Running, Vec<SocketAddr>) {
    let arguments = [&["port-forward", "--address", "127.0.0.1", target], ports].concat();
    let forwarding = Running::start(coracle(cluster, &arguments));
    let places = ports.iter().map(|_| {
        let line = forwarding.line();
        let place = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(" -> ").next());
        place.and_then(|place| place.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    });
    let places = places.collect();
    (forwarding, places)
}

#[test]
fn ports_are_forwarded() {
    let (cluster, kubectl) = cluster();
    let ports: Value = json!([{"name": "web", "port": 80, "targetPort": 8080}]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": ports}});
    pods::apply(&kubectl, "default", &[server("web", "web"), service]);
    running(&kubectl, "web");
    let (_forwarding, places) = forward(&cluster, "pod/web", &[":8080", ":9000", ":9001"]);
    let [http, echo, sink] = places[..] else { panic!("{places:?}") };
    eventually("an answer", || contains(&get(http, "/")?.text(), "hello from web"));
    let body = vec![b'x'; 3_000_000];
    assert_eq!(post(http, "/echo", &body).unwrap().body, body);
    thread::scope(|scope| {
        let asking: Vec<_> = (0..40)
            .map(|_| {
                scope.spawn(move || (0..5).for_each(|_| drop(get(http, "/").unwrap_or_else(|error| panic!("{error}")))))
            })
            .collect();
        for one in asking {
            one.join().unwrap();
        }
    });
    // Each direction ends on its own.
    let mut half = TcpStream::connect(sink).unwrap();
    half.write_all(&body).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("3000000"), "{answer}");
    // One that nobody reads holds up itself only.
    let mut stuck = TcpStream::connect(echo).unwrap();
    stuck.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    while stuck.write_all(&body).is_ok() {}
    assert_eq!(get(http, "/").unwrap().status, 200);

    let (_by_service, places) = forward(&cluster, "svc/web", &[":80"]);
    assert_eq!(get(places[0], "/").unwrap().status, 200);
    // Nobody listens there: the connection is closed, and said so; the others go on.
    let (mut nobody, places) = forward(&cluster, "web", &[":1", ":8080"]);
    let mut refused = Vec::new();
    drop(TcpStream::connect(places[0]).unwrap().read_to_end(&mut refused));
    assert_eq!(refused, b"");
    assert_eq!(get(places[1], "/").unwrap().status, 200);
    nobody.until_error("error forwarding port 1 to pod web");
}

#[test]
fn a_forwarded_connection_ends_with_its_pod() {
    let (cluster, kubectl) = cluster();
    pods::apply(&kubectl, "default", &[server("web", "web")]);
    running(&kubectl, "web");
    let (mut forwarding, places) = forward(&cluster, "web", &[":9000"]);
    let mut echo = TcpStream::connect(places[0]).unwrap();
    echo.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    echo.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    echo.read_exact(&mut answer).unwrap();
    kubectl.run("delete pod web --wait=false").unwrap();
    assert!(matches!(echo.read(&mut answer), Ok(0) | Err(_)), "it ends");
    eventually("the pod to be gone", || kubectl.run("get pod web").map_or(Ok(()), Err));
    drop(TcpStream::connect(places[0]));
    assert_eq!(forwarding.child.wait().unwrap().code(), Some(1));
    let errors = forwarding.errors();
    assert!(errors.contains("lost connection to pod"), "{errors}");
}
