//! Sessions with a terminal, on a runner that does what the test says.

use super::{
    tests::{User, launch},
    *,
};
use crate::{
    exec::tests::{TARGET, World},
    fake::{COMMAND, eventually},
    guests::RunEvent,
    terminal::SIGINT,
};
use coracle_runner::protocol::{StartGuest, StdinMode};
use serde_json::json;

const SIZE: &[u8] = b"{\"Width\":132,\"Height\":50}";

fn resize(data: &'static [u8]) -> ChannelFrame {
    ChannelFrame { channel: RESIZE, data: Bytes::from_static(data), close: false }
}

/// `exec -it`, once it runs.
async fn exec(world: &World) -> (User, StartGuest) {
    let user = User::exec(world, |request| (request.tty, request.stdin, request.stderr) = (true, true, false));
    user.input.send(resize(SIZE)).await.unwrap();
    eventually("it runs", || world.guests.running(COMMAND).is_some()).await;
    let start = world.guests.running(COMMAND).unwrap();
    (user, start)
}

fn code(status: &Bytes) -> Value {
    let status: Value = serde_json::from_slice(status).unwrap();
    status["details"]["causes"][0]["message"].clone()
}

/// The world's pod, whose container has a terminal and reads.
fn pod(world: &World, stdin: bool) -> Arc<Value> {
    let mut pod = Value::clone(&world.pod);
    (pod["spec"]["containers"][0]["tty"], pod["spec"]["containers"][0]["stdin"]) = (json!(true), json!(stdin));
    Arc::new(pod)
}

#[tokio::test]
async fn keys_are_shown_and_lines_are_edited_before_the_guest_has_them() {
    let world = World::new().await;
    let (mut user, start) = exec(&world).await;
    assert!(start.terminal && start.stdin == StdinMode::Open);
    let variables = [("TERM", "xterm"), ("COLUMNS", "132"), ("LINES", "50")];
    assert_eq!(start.env, variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    user.types("hek\u{7f}", false).await;
    assert_eq!(user.sees().await, (STDOUT, "hek\u{8} \u{8}".to_owned()));
    assert_eq!(world.guests.input_of(&start.run).0, "", "there is no line yet");
    // A change of size is no input.
    user.input.send(resize(b"{\"Width\":1,\"Height\":1}")).await.unwrap();
    user.types("llo\r", false).await;
    assert_eq!(user.sees().await, (STDOUT, "llo\r\n".to_owned()));
    eventually("the line", || world.guests.input_of(&start.run) == ("hello\n".to_owned(), false)).await;
    // Both streams as one, each line from the left.
    world.guests.write(COMMAND, LogStream::Stderr, "one\n");
    assert_eq!(user.sees().await, (STDOUT, "one\r\n".to_owned()));
    world.guests.write(COMMAND, LogStream::Stdout, "two\n");
    assert_eq!(user.sees().await, (STDOUT, "two\r\n".to_owned()));
    eventually("what the guest wrote is taken, not what was made of it", || {
        world.guests.taken_of(&start.run) == "one\ntwo\n".len()
    })
    .await;
    user.types("\u{4}", false).await;
    eventually("the end", || world.guests.input_of(&start.run) == ("hello\n".to_owned(), true)).await;
    world.guests.exit(COMMAND, 0);
    assert_eq!(user.session.await.unwrap().unwrap(), "", "success is no status");
}

#[tokio::test]
async fn a_command_is_interrupted_by_a_key() {
    let world = World::new().await;
    for (keys, shown, exit) in [("half\u{3}", "half^C", "130"), ("\u{1c}", "^\\", "131")] {
        let (mut user, start) = exec(&world).await;
        user.types(keys, false).await;
        assert_eq!(user.sees().await, (STDOUT, shown.to_owned()));
        assert_eq!(code(&user.session.await.unwrap().unwrap()), exit);
        assert_eq!(world.guests.input_of(&start.run).0, "");
    }
}

#[tokio::test]
async fn the_size_is_not_waited_for_when_something_else_is_said() {
    let world = World::new().await;
    let mut user = User::exec(&world, |request| (request.tty, request.stdin, request.stderr) = (true, true, false));
    user.types("early\r", false).await;
    assert_eq!(user.sees().await, (STDOUT, "early\r\n".to_owned()), "and is not lost");
    let start = world.guests.running(COMMAND).unwrap();
    assert_eq!(start.env, [("TERM".to_owned(), "xterm".to_owned())]);
    eventually("the line", || world.guests.input_of(&start.run).0 == "early\n").await;
    // The rest of a line goes with the keyboard.
    user.types("late", true).await;
    eventually("the end", || world.guests.input_of(&start.run) == ("early\nlate".to_owned(), true)).await;
    world.guests.exit(COMMAND, 3);
    assert_eq!(user.sees().await.1, "late");
    assert_eq!(code(&user.session.await.unwrap().unwrap()), "3");
}

#[tokio::test]
async fn a_containers_terminal_is_shared_and_logged() {
    let world = World::new().await;
    let mut events = launch(&world, true).await;
    let run = RunId(TARGET.to_owned());
    let pod = pod(&world, true);
    let mut first = User::attach(&world, pod.clone(), true);
    // Asked for or not: it is the container's.
    let mut second = User::attach(&world, pod, false);
    for user in [&first, &second] {
        // The second is taken when the first was, and that is when it is attached.
        user.types("", false).await;
        user.types("", false).await;
    }
    world.guests.write("main", LogStream::Stderr, "name? ");
    for user in [&mut first, &mut second] {
        assert_eq!(user.sees().await, (STDOUT, "name? ".to_owned()));
    }
    first.types("Ad", false).await;
    assert_eq!(second.sees().await.1, "Ad");
    second.types("a\r", false).await;
    eventually("the line that both wrote", || world.guests.input_of(&run).0 == "Ada\n").await;
    world.guests.write("main", LogStream::Stdout, "hello\n");
    let mut seen = String::new();
    while !seen.ends_with("hello\r\n") {
        seen += &first.sees().await.1;
    }
    assert_eq!(seen, "Ada\r\nhello\r\n");
    let log = world.context.logs.container_directory(&world.pod, "main").unwrap().join("0.log");
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<_> =
        log.trim_end_matches('\n').split('\n').map(|line| line.split_once(" stdout F ").unwrap().1).collect();
    assert_eq!(lines, ["name? Ada\r", "hello\r"], "as a terminal gives it");
    first.types("\u{3}", false).await;
    let (_, event) = events.recv().await.unwrap();
    assert_eq!(event, RunEvent::Started);
    let Some((_, RunEvent::Exited(exit))) = events.recv().await else { panic!("it goes on") };
    assert_eq!(exit.code, 128 + i32::from(SIGINT));
    assert_eq!(first.session.await.unwrap().unwrap(), "");
    drop(second);
}

#[tokio::test]
async fn a_terminal_is_there_from_the_start_or_not_at_all() {
    let world = World::new().await;
    let events = launch(&world, false).await;
    let refused = User::attach(&world, world.pod.clone(), true).refusal().await;
    assert_eq!(refused, (400, "Unable to use a TTY - container main did not allocate one".to_owned()));
    world.guests.exit("main", 0);
    drop(events);
    // One that reads nothing shows no keys.
    let _events = launch(&world, true).await;
    let mut user = User::attach(&world, pod(&world, false), true);
    for _ in 0..3 {
        user.types("keys\r", false).await;
    }
    world.guests.write("main", LogStream::Stdout, "only this");
    assert_eq!(user.sees().await.1, "only this");
}
