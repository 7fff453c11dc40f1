//! Sessions of a user with a container, on a runner that does what the test says.

use super::*;
use crate::{
    exec::tests::{TARGET, World},
    fake::{COMMAND, eventually},
    guests::{Launch, RunEvent},
    output::Output,
};
use coracle_runner::protocol::{GuestKind, StartGuest, StdinMode};
use tokio::task::JoinHandle;

/// The user's end.
pub(super) struct User {
    pub(super) input: mpsc::Sender<ChannelFrame>,
    pub(super) output: mpsc::Receiver<ChannelFrame>,
    pub(super) session: JoinHandle<Result<Bytes, ApiError>>,
}

fn line() -> (Line, mpsc::Sender<ChannelFrame>, mpsc::Receiver<ChannelFrame>) {
    let (to_node, input) = mpsc::channel(1);
    let (output, from_node) = mpsc::channel(1);
    (Line { input, output }, to_node, from_node)
}

impl User {
    pub(super) fn exec(world: &World, change: impl FnOnce(&mut v1::ExecRequest)) -> Self {
        let (line, input, output) = line();
        let mut request = v1::ExecRequest {
            container: "main".to_owned(),
            command: vec!["img".to_owned()],
            stdout: true,
            stderr: true,
            ..v1::ExecRequest::default()
        };
        change(&mut request);
        let (context, pod) = (world.context.clone(), world.pod.clone());
        let session = tokio::spawn(async move { exec::serve(&context, &pod, request, line).await });
        Self { input, output, session }
    }

    pub(super) fn attach(world: &World, pod: Arc<Value>, tty: bool) -> Self {
        let (line, input, output) = line();
        let request = v1::AttachRequest {
            container: "main".to_owned(),
            stdin: true,
            stdout: true,
            stderr: !tty,
            tty,
            ..v1::AttachRequest::default()
        };
        let context = world.context.clone();
        let session = tokio::spawn(async move { attach::serve(&context, &pod, request, line).await });
        Self { input, output, session }
    }

    pub(super) async fn types(&self, text: &str, close: bool) {
        let data = Bytes::copy_from_slice(text.as_bytes());
        self.input.send(ChannelFrame { channel: INPUT, data, close }).await.unwrap();
    }

    pub(super) async fn sees(&mut self) -> (u32, String) {
        let frame = self.output.recv().await.unwrap();
        (frame.channel, String::from_utf8(frame.data.to_vec()).unwrap())
    }

    pub(super) async fn refusal(self) -> (u16, String) {
        let error = self.session.await.unwrap().unwrap_err();
        (error.code(), error.message)
    }
}

/// Runs the container that the world's pod has, with a terminal or without.
pub(super) async fn launch(world: &World, terminal: bool) -> mpsc::Receiver<(RunId, RunEvent)> {
    let (events, told) = mpsc::channel(4);
    let run = RunId(TARGET.to_owned());
    let guest = StartGuest::joining(run.clone(), run, "u".to_owned(), "code".into(), GuestKind::Module);
    let launch = Launch {
        namespace: "default".to_owned(),
        namespace_uid: "ns-1".to_owned(),
        guest: StartGuest { stdin: StdinMode::Open, joins: None, terminal, ..guest },
        places: 1,
        promise: crate::guests::Promise::None,
        events,
        output: Output::Log(world.context.logs.begin(&world.pod, "main", 0).unwrap()),
    };
    world.context.guests.launch(launch).await.unwrap();
    told
}

#[tokio::test]
async fn a_commands_streams_go_both_ways() {
    let world = World::new().await;
    let mut user = User::exec(&world, |request| request.stdin = true);
    eventually("it runs", || world.guests.running(COMMAND).is_some()).await;
    let start = world.guests.running(COMMAND).unwrap();
    assert_eq!(start.stdin, StdinMode::Open);
    user.types("hello", false).await;
    user.types(" there", true).await;
    eventually("it is written", || world.guests.input_of(&start.run) == ("hello there".to_owned(), true)).await;
    world.guests.write(COMMAND, LogStream::Stdout, "out");
    assert_eq!(user.sees().await, (STDOUT, "out".to_owned()));
    world.guests.write(COMMAND, LogStream::Stderr, "err");
    assert_eq!(user.sees().await, (STDERR, "err".to_owned()));
    world.guests.exit(COMMAND, 7);
    let status: Value = serde_json::from_slice(&user.session.await.unwrap().unwrap()).unwrap();
    assert_eq!((&status["reason"], &status["status"]), (&Value::from("NonZeroExitCode"), &Value::from("Failure")));
    assert_eq!(status["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "7"}));
}

#[tokio::test]
async fn a_user_who_goes_away_ends_the_command() {
    let world = World::new().await;
    let user = User::exec(&world, |_| {});
    eventually("it runs", || world.guests.running(COMMAND).is_some()).await;
    // The session is dropped with its stream.
    user.session.abort();
    eventually("it is ended", || world.guests.running(COMMAND).is_none()).await;
    let User { output, session, .. } = User::exec(&world, |_| {});
    eventually("it runs", || world.guests.running(COMMAND).is_some()).await;
    drop(output);
    world.guests.write(COMMAND, LogStream::Stdout, "to nobody");
    session.await.unwrap().unwrap_err();
    eventually("it is ended", || world.guests.running(COMMAND).is_none()).await;
}

#[tokio::test]
async fn a_user_who_does_not_read_gives_no_credit() {
    let world = World::new().await;
    let mut user = User::exec(&world, |_| {});
    eventually("it runs", || world.guests.running(COMMAND).is_some()).await;
    let run = world.guests.running(COMMAND).unwrap().run;
    for text in ["one", "two", "three", "four"] {
        world.guests.write(COMMAND, LogStream::Stdout, text);
    }
    // One is in the queue and one waits for it.
    eventually("the first is on its way", || world.guests.taken_of(&run) == 3).await;
    for text in ["one", "two", "three", "four"] {
        assert_eq!(user.sees().await.1, text);
    }
    eventually("the rest is too", || world.guests.taken_of(&run) == 15).await;
}

#[tokio::test]
async fn there_must_be_something_to_run_in() {
    let world = World::new().await;
    let refused = User::exec(&world, |request| request.container = "other".to_owned()).refusal().await;
    assert_eq!(refused, (404, "container not found (\"other\")".to_owned()));
    let refused = User::exec(&world, |request| request.container = "down".to_owned()).refusal().await;
    assert_eq!(refused, (404, "container not found (\"down\")".to_owned()));
    let mut ended = Value::clone(&world.pod);
    ended["status"]["containerStatuses"][0]["state"] = serde_json::json!({"terminated": {"exitCode": 0}});
    let refused = User::attach(&world, Arc::new(ended), false).refusal().await;
    assert_eq!(refused, (400, "container \"main\" of pod p is in a stopped state".to_owned()));
}

#[tokio::test]
async fn who_is_attached_sees_what_comes_and_writes_where_there_is_input() {
    let world = World::new().await;
    let run = RunId(TARGET.to_owned());
    for (stdin, once) in [(false, false), (true, false), (true, true)] {
        let _events = launch(&world, false).await;
        let mut pod = Value::clone(&world.pod);
        (pod["spec"]["containers"][0]["stdin"], pod["spec"]["containers"][0]["stdinOnce"]) =
            (stdin.into(), once.into());
        let before = world.guests.input_of(&run).0;
        let mut user = User::attach(&world, Arc::new(pod), false);
        user.types("x", true).await;
        user.types("y", false).await;
        user.types("z", false).await;
        world.guests.write("main", LogStream::Stdout, "now");
        assert_eq!(user.sees().await, (STDOUT, "now".to_owned()));
        let expected = if stdin { format!("{before}xyz") } else { before };
        if stdin {
            eventually("it is written", || world.guests.input_of(&run).0 == expected).await;
        }
        assert_eq!(world.guests.input_of(&run), (expected, once));
        world.guests.exit("main", 0);
        assert_eq!(user.session.await.unwrap().unwrap(), "", "over with the container's run");
    }
}
