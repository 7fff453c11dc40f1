//! Commands beside a container, on a runner that does what the test says.

use super::*;
use crate::reflector::Sink as _;
use crate::{
    fake::{COMMAND, FakeGuests, FakeLink, eventually},
    pod::manager::tests::context,
};
use coracle_runner::protocol::LogStream;
use serde_json::json;

/// An agent with one pod whose container runs.
pub(crate) struct World {
    pub(crate) context: Arc<Context>,
    pub(crate) guests: Arc<FakeGuests>,
    pub(crate) pod: Arc<Value>,
    _directory: tempfile::TempDir,
}

/// The container's run.
pub(crate) const TARGET: &str = "target";

impl World {
    pub(crate) async fn new() -> Self {
        let (directory, link, guests) = (tempfile::tempdir().unwrap(), FakeLink::new(), FakeGuests::new());
        let context = context(directory.path(), &link, &guests, &[]).await;
        let namespace = json!({"metadata": {"name": "default", "uid": "ns-1"}});
        context.caches.namespaces.clone().replace(vec![namespace]);
        let pod = Arc::new(json!({
            "metadata": {"namespace": "default", "name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "main", "image": "img:1"}, {"name": "down", "image": "img:1"}]},
            "status": {"containerStatuses": [
                {"name": "main", "imageID": "registry/img:1@sha256:1", "containerID": "coracle://target",
                 "state": {"running": {}}},
                {"name": "down", "imageID": "", "containerID": "", "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
            ]},
        }));
        Self { context, guests, pod, _directory: directory }
    }

    fn request(&self, command: &[&str]) -> ExecRequest {
        ExecRequest {
            pod: self.pod.clone(),
            namespace_uid: "ns-1".to_owned(),
            container: "main".to_owned(),
            run: RunId(TARGET.to_owned()),
            command: command.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    fn run_to_end(
        &self,
        command: &[&str],
        limit: Duration,
    ) -> tokio::task::JoinHandle<Result<(i32, Vec<u8>), ExecFailure>> {
        let (context, request) = (self.context.clone(), self.request(command));
        tokio::spawn(async move { run_to_end(&context, request, 8, limit).await })
    }
}

#[tokio::test]
async fn a_command_joins_the_containers_run_and_its_end_is_told() {
    let world = World::new().await;
    let ending = world.run_to_end(&["check", "--all"], Duration::from_mins(1));
    eventually("it runs", || world.guests.running(COMMAND).is_some()).await;
    let start = world.guests.running(COMMAND).unwrap();
    assert_eq!((start.joins, start.stdin), (Some(RunId(TARGET.to_owned())), StdinMode::Empty));
    assert_eq!(start.argv, ["img", "check", "--all"], "the container's own module, with these arguments");
    world.guests.write(COMMAND, LogStream::Stdout, "12345");
    world.guests.write(COMMAND, LogStream::Stderr, "6789");
    eventually("all of it is taken, kept or not", || world.guests.taken_of(&start.run) == 9).await;
    world.guests.exit(COMMAND, 3);
    assert_eq!(ending.await.unwrap(), Ok((3, b"12345678".to_vec())));
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_ended() {
    let world = World::new().await;
    let limit = Duration::from_millis(50);
    let ending = world.run_to_end(&["img", "wait"], limit);
    assert_eq!(ending.await.unwrap(), Err(ExecFailure::TimedOut(limit)));
    eventually("it is ended", || world.guests.running(COMMAND).is_none()).await;
    // So is one that nobody waits for any more.
    let abandoned = world.run_to_end(&["img"], Duration::from_mins(1));
    eventually("it runs", || world.guests.running(COMMAND).is_some()).await;
    abandoned.abort();
    eventually("it is ended", || world.guests.running(COMMAND).is_none()).await;
}

#[tokio::test]
async fn what_cannot_run_says_why() {
    let world = World::new().await;
    let failure = async |change: &dyn Fn(&mut ExecRequest)| {
        let mut request = world.request(&["img"]);
        change(&mut request);
        let result = run_to_end(&world.context, request, 8, Duration::from_mins(1)).await;
        result.unwrap_err().to_string()
    };
    assert_eq!(failure(&|request| request.container = "other".to_owned()).await, "container not found (\"other\")");
    assert_eq!(failure(&|request| request.command.clear()).await, "there is no command to run");
    assert!(failure(&|request| request.command.push("\0".to_owned())).await.contains("NUL"));
    let absent = failure(&|request| request.container = "down".to_owned()).await;
    assert_eq!(absent, "the container's image \"img:1\" is not on this node any more");
}

#[test]
fn the_first_word_names_a_module_or_is_an_argument() {
    let module = |name: &str| ImageModule { name: name.to_owned(), digest: String::new(), path: "/".into() };
    let modules = [module("app"), module("tool")];
    let chosen = |container: &Value, command: &[&str]| {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let tool = |name: &str| (name == "tar").then(|| module("built-in"));
        choose(container, &modules, tool, &command).map(|(module, argv)| (module.name.clone(), argv.join(" ")))
    };
    let (first, second) = (json!({}), json!({"command": ["tool"]}));
    for (container, command, module, argv) in [
        (&first, &["tool", "-v"][..], "tool", "tool -v"),
        (&first, &["/bin/tool.wasm", "-v"], "tool", "/bin/tool.wasm -v"),
        (&first, &["ls", "/"], "app", "app ls /"),
        (&second, &["ls", "/"], "tool", "tool ls /"),
        (&second, &["app"], "app", "app"),
        (&first, &["/bin/tar", "cf", "-"], "built-in", "/bin/tar cf -"),
    ] {
        assert_eq!(chosen(container, command), Ok((module.to_owned(), argv.to_owned())), "{command:?}");
    }
    let own = [module("app"), module("tar")];
    let command = ["tar".to_owned()];
    let chosen = choose(&json!({}), &own, |_| Some(module("built-in")), &command);
    assert_eq!(chosen.map(|(module, _)| module.name), Ok("tar".to_owned()), "the image's own goes first");
}
