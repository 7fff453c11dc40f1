//! Sessions with a terminal, as a person has them: kubectl of every kind and `coracle` on a real terminal, keys pressed and
//! the screen read.

use coracle_tests::{Cluster, Kubectl, eventually, guest, pods, pty::Pty, site::binary, wait::contains};
use nix::sys::signal::Signal;
use serde_json::json;
use std::process::{Command, Stdio};

const COLUMNS: u16 = 132;
const LINES: u16 = 50;
const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";

/// A program that people use, and its name.
type Client<'a> = (String, Box<dyn Fn(&[&str]) -> Command + 'a>);

fn clients(cluster: &Cluster) -> Vec<Client<'_>> {
    let kubectls =
        cluster.kubectls().into_iter().enumerate().map(|(number, kubectl): (usize, Kubectl)| -> Client<'_> {
            (format!("kubectl {number}"), Box::new(move |words| kubectl.command(words)))
        });
    let coracle = |words: &[&str]| {
        let mut command = Command::new(binary().unwrap());
        command.args(words).env("KUBECONFIG", cluster.kubeconfig());
        command
    };
    kubectls.chain([("coracle".to_owned(), Box::new(coracle) as Box<_>)]).collect()
}

fn start(client: &Client<'_>, words: &[&str]) -> Pty {
    Pty::start(client.1(words), COLUMNS, LINES)
}

fn cluster() -> (Cluster, Kubectl) {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    (cluster, kubectl)
}

/// Every line began at the left: none that came from the other end steps down from where the last one ended.
fn no_staircase(shown: &str) {
    let bare = shown.match_indices('\n').filter(|(at, _)| !shown[..*at].ends_with('\r')).count();
    assert_eq!(bare, 0, "{shown:?}");
}

#[test]
fn a_command_has_a_terminal() {
    let (cluster, kubectl) = cluster();
    pods::apply(&kubectl, "default", &[pods::toolbox("idle", "Always", &["wait-eof"])]);
    pods::running(&kubectl, "idle");
    for client in clients(&cluster) {
        let exec = |words: &[&str]| start(&client, &[&["exec", "-it", "idle", "--", "toolbox"], words].concat());
        // Keys are shown, lines can be edited, and Ctrl-D is the end.
        let mut copying = exec(&["echo", "ready", "--", "copy"]);
        copying.until("ready\r\n");
        assert!(copying.is_raw(), "{}", client.0);
        copying.press("hellp\u{7f}o");
        copying.until("hellp\u{8} \u{8}o");
        assert!(!copying.shown().contains("hello"), "{}: the guest has it before its end", client.0);
        copying.press("\r");
        copying.until("\u{8} \u{8}o\r\nhello\r\n");
        copying.press("two\r");
        copying.until("two\r\ntwo\r\n");
        copying.signal(Signal::SIGWINCH);
        copying.press(CTRL_D);
        assert_eq!(copying.end(), 0, "{}: {:?}", client.0, copying.shown());
        assert!(!copying.is_raw(), "{}: the terminal is as it was", client.0);
        no_staircase(&copying.shown());
        // What the guest knows of it.
        let mut asking = exec(&["terminal", "--", "env"]);
        assert_eq!(asking.end(), 0, "{}: {:?}", client.0, asking.shown());
        for line in ["terminals: stdin stdout stderr", "TERM=xterm", "COLUMNS=132", "LINES=50"] {
            asking.until(&format!("{line}\r\n"));
        }
        no_staircase(&asking.shown());
        // Ctrl-C, also while nobody reads what is typed.
        let mut sleeping = exec(&["echo", "ready", "--", "sleep", "1000"]);
        sleeping.until("ready\r\n");
        sleeping.press(&"some words\r".repeat(200));
        sleeping.press("half");
        sleeping.press(CTRL_C);
        assert_eq!(sleeping.end(), 130, "{}: {:?}", client.0, sleeping.shown());
        sleeping.until("half^C");
        assert!(!sleeping.is_raw(), "{}", client.0);
        // An exit code of the command's own, and both streams as one.
        let mut failing = exec(&["warn", "careful", "--", "fail"]);
        assert_eq!(failing.end(), 1, "{}: {:?}", client.0, failing.shown());
        failing.until("careful\r\n");
    }
    assert_eq!(pods::container(&pods::running(&kubectl, "idle"))["restartCount"], 0);
}

#[test]
fn a_containers_terminal_is_attached_to() {
    let (cluster, kubectl) = cluster();
    let plain = json!({"image": "toolbox:1", "args": ["wait-eof"], "stdin": true});
    pods::apply(&kubectl, "default", &[pods::pod("plain", "Never", &plain)]);
    pods::running(&kubectl, "plain");
    for (number, client) in clients(&cluster).into_iter().enumerate() {
        let pod = format!("shared-{number}");
        let container = json!({"image": "toolbox:1", "args": ["terminal", "--", "copy"], "stdin": true, "tty": true});
        pods::apply(&kubectl, "default", &[pods::pod(&pod, "Never", &container)]);
        pods::running(&kubectl, &pod);
        eventually("the log", || {
            let log = kubectl.run(&format!("logs {pod}"))?;
            if log == "terminals: stdin stdout stderr\r\n" { Ok(()) } else { Err(format!("{log:?}")) }
        });
        let mut first = start(&client, &["attach", "-it", &pod]);
        let mut second = start(&client, &["attach", "-it", &pod]);
        for (attached, word) in [(&mut first, "first"), (&mut second, "second")] {
            eventually("raw mode", || if attached.is_raw() { Ok(()) } else { Err(attached.shown()) });
            // Kept until it is attached, and shown by nobody before.
            attached.press(&format!("{word}\r"));
            attached.until(&format!("{word}\r\n{word}\r\n"));
        }
        first.press("one line\r");
        for attached in [&first, &second] {
            attached.until("one line\r\none line\r\n");
        }
        eventually("the log", || contains(&kubectl.run(&format!("logs {pod}"))?, "one line\r\none line\r\n"));
        second.press(CTRL_C);
        for attached in [&mut first, &mut second] {
            assert_eq!(attached.end(), 0, "{}: {:?}", client.0, attached.shown());
            assert!(!attached.is_raw(), "{}", client.0);
        }
        let ended = pods::phase(&kubectl, &pod, "Failed");
        let exit_code = &pods::container(&ended)["state"]["terminated"]["exitCode"];
        assert_eq!(exit_code, 130, "{}", client.0);

        let refused = start(&client, &["attach", "-it", "plain"]);
        refused.until("Unable to use a TTY - container main did not allocate one");
    }
}

#[test]
fn kubectl_runs_a_pod_on_its_terminal() {
    let (cluster, _kubectl) = cluster();
    for client in clients(&cluster).iter().filter(|client| client.0.starts_with("kubectl")) {
        let words = ["run", "talk", "-it", "--rm", "--image=toolbox:1", "--restart=Never", "--", "copy"];
        let mut running = start(client, &words);
        eventually("raw mode", || if running.is_raw() { Ok(()) } else { Err(running.shown()) });
        running.press("hello\r");
        running.until("hello\r\nhello\r\n");
        running.press(CTRL_D);
        assert_eq!(running.end(), 0, "{}: {:?}", client.0, running.shown());
        running.until("pod \"talk\" deleted");
    }
}

#[test]
fn the_terminal_is_given_back_whatever_ends_coracle() {
    let (cluster, kubectl) = cluster();
    pods::apply(&kubectl, "default", &[pods::toolbox("idle", "Always", &["wait-eof"])]);
    pods::running(&kubectl, "idle");
    let clients = clients(&cluster);
    let coracle = clients.last().unwrap();
    let words = ["exec", "-it", "idle", "--", "echo", "ready", "--", "sleep", "1000"];
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGQUIT, 131)]
    {
        let mut running = start(coracle, &words);
        running.until("ready\r\n");
        assert!(running.is_raw());
        running.signal(signal);
        assert_eq!(running.end(), code);
        assert!(!running.is_raw(), "{signal}");
    }
    let mut running = start(coracle, &words);
    running.until("ready\r\n");
    kubectl.run("delete pod idle --now --wait=false").unwrap();
    assert_eq!(running.end(), 137, "{:?}", running.shown());
    assert!(!running.is_raw());
    // Without a terminal there is a warning, and the command runs.
    pods::apply(&kubectl, "default", &[pods::toolbox("other", "Always", &["wait-eof"])]);
    pods::running(&kubectl, "other");
    let output = coracle.1(&["exec", "-it", "other", "--", "terminal"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "terminals: none\n");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("Unable to use a TTY - input is not a terminal"));
}
