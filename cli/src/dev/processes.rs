//! The nodes of `coracle dev --nodes`: each a process of this program with a name, an address and a directory of its own,
//! so that one can be killed while the others go on. They must never outlive this process.

use super::SHUTDOWN_GRACE;
use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Nodes of one machine at most: each is a process with threads and runners of its own.
pub(crate) const NODES_MAX: u32 = 100;
/// Longest line of a node's log that stays one line, in bytes.
const LINE_LENGTH_MAX: u64 = 64 << 10;
/// How long what a node that has ended has said is waited for.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// A node that is to be a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Name of the node.
    pub(crate) name: String,
    /// Its address, node ports included.
    pub(crate) address: IpAddr,
    /// What it keeps lies below.
    directory: PathBuf,
}

/// `node-1` to `node-COUNT`, each with an address of its own: that of `host`, which is a loopback address, and those
/// behind it. The first has the directory that a single node has.
///
/// # Errors
/// When there are not so many such addresses.
pub(crate) fn plan(count: u32, host: IpAddr, data_dir: &Path) -> Result<Vec<Planned>> {
    let IpAddr::V4(first) = host else { bail!(needs_loopback(host)) };
    if !first.is_loopback() {
        bail!(needs_loopback(host));
    }
    let mut nodes = Vec::new();
    for number in 0..count {
        let address = first.to_bits().checked_add(number).map(Ipv4Addr::from_bits);
        let address = address.filter(Ipv4Addr::is_loopback);
        let address = address.with_context(|| format!("there are not {count} loopback addresses from {host} on"))?;
        let name = format!("node-{}", number + 1);
        let directory = data_dir.join(if number == 0 { "node" } else { &name });
        nodes.push(Planned { name, address: address.into(), directory });
    }
    Ok(nodes)
}

fn needs_loopback(host: IpAddr) -> String {
    format!("with --nodes every node has a loopback address of its own, and {host} of --listen is not in 127.0.0.0/8")
}

impl Planned {
    /// The words behind the program's name.
    pub(crate) fn words(&self, server: &str, credentials: &Path, more: &[OsString]) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["node", "--name", &self.name, "--server", server].map(Into::into).into();
        words.extend(["--address".into(), self.address.to_string().into()]);
        words.extend(["--credentials".into(), credentials.into(), "--data-dir".into(), self.directory.clone().into()]);
        words.extend(more.iter().cloned());
        let says = |word: &OsString| word.as_encoded_bytes().starts_with(b"--shutdown-grace=");
        if !more.iter().any(says) {
            words.push(format!("--shutdown-grace={}", SHUTDOWN_GRACE.as_secs()).into());
        }
        words
    }
}

/// A started node.
pub(crate) struct NodeProcess {
    name: String,
    words: Vec<OsString>,
    child: Child,
    /// What passes on its output.
    outputs: Vec<JoinHandle<()>>,
}

impl NodeProcess {
    /// Starts a node; what it says is passed on with its name in front.
    ///
    /// To be called by the main thread: the kernel ends the node with the thread that has started it.
    ///
    /// # Errors
    /// When this program's file cannot be found or run.
    pub(crate) fn start(name: String, words: Vec<OsString>) -> Result<Self> {
        let program =
            env::current_exe().context("cannot find this program's own file, which nodes are started from")?;
        let mut command = Command::new(program);
        command.args(&words).arg("--parent").arg(std::process::id().to_string());
        // A group of its own: Ctrl-C in a terminal is for this process, which then asks its nodes to end, once.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Self::watched(name, words, command)
    }

    fn watched(name: String, words: Vec<OsString>, mut command: Command) -> Result<Self> {
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let output = child.stdout.take().map(|output| tokio::spawn(pass_on(name.clone(), output)));
        let errors = child.stderr.take().map(|errors| tokio::spawn(pass_on(name.clone(), errors)));
        Ok(Self { name, words, child, outputs: output.into_iter().chain(errors).collect() })
    }

    /// Waits until it has ended and its last words have been passed on; once `stop` is cancelled it is asked to end, and
    /// killed when it has not `within` that time.
    async fn ended(mut self, stop: CancellationToken, within: Duration) -> (Self, io::Result<ExitStatus>) {
        let status = self.end(stop, within).await;
        // Its pods' processes may have its output too, for a moment.
        let _late = timeout(LAST_WORDS_MAX, join_all(&mut self.outputs)).await;
        (self, status)
    }

    async fn end(&mut self, stop: CancellationToken, within: Duration) -> io::Result<ExitStatus> {
        let by_itself = stop.run_until_cancelled(self.child.wait()).await;
        if let Some(status) = by_itself {
            return status;
        }
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // A failure means that it has ended already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        match timeout(within, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => match self.child.start_kill() {
                Ok(()) => self.child.wait().await,
                Err(error) => Err(error),
            },
        }
    }
}

/// Watches over the nodes until `stop` is cancelled and they have ended `within` the time that their pods' grace takes. One that somebody kills,
/// or asks to end, is missed and no more: how it is started again is printed.
///
/// # Errors
/// When a node fails; the others have ended by then.
pub(crate) async fn run(nodes: Vec<NodeProcess>, stop: CancellationToken, within: Duration) -> Result<()> {
    let ends: FuturesUnordered<_> = nodes.into_iter().map(|node| node.ended(stop.clone(), within)).collect();
    let mut ends = ends;
    let mut failure = None;
    while let Some((node, status)) = ends.next().await {
        let status = status.with_context(|| format!("{} is lost", node.name))?;
        let name = &node.name;
        if status.code().is_some_and(|code| code != 0) {
            stop.cancel();
            failure.get_or_insert_with(|| format!("{name} has failed: {status}"));
        } else if !stop.is_cancelled() {
            let how = status.signal().map_or("has ended".to_owned(), |signal| format!("was ended by signal {signal}"));
            say(format!("{name} {how}; this starts it again: coracle {}\n", in_a_shell(&node.words)).as_bytes());
        }
    }
    // All may have been ended by hand, and be started again by hand.
    stop.cancelled().await;
    failure.map_or(Ok(()), |failure| bail!(failure))
}

/// The words as one types them.
pub(crate) fn in_a_shell(words: &[OsString]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_=./:,@%+".contains(character);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Passes on what a node says, line by line.
async fn pass_on(name: String, output: impl AsyncRead + Unpin) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        line.extend(format!("{name}: ").into_bytes());
        if !matches!((&mut output).take(LINE_LENGTH_MAX).read_until(b'\n', &mut line).await, Ok(1..)) {
            return;
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        say(&line);
    }
}

/// Whoever has closed the output does not want to know.
fn say(line: &[u8]) {
    io::stderr().lock().write_all(line).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(count: u32, host: &str) -> Result<Vec<(String, String, String)>, String> {
        let nodes = plan(count, host.parse().unwrap(), Path::new("/d")).map_err(|error| error.to_string())?;
        let shown = |node: Planned| (node.name, node.address.to_string(), node.directory.display().to_string());
        Ok(nodes.into_iter().map(shown).collect())
    }

    #[test]
    fn every_node_has_a_name_an_address_and_a_directory() {
        let expected = [
            ("node-1", "127.0.0.254", "/d/node"),
            ("node-2", "127.0.0.255", "/d/node-2"),
            ("node-3", "127.0.1.0", "/d/node-3"),
        ];
        let expected = expected.map(|node| (node.0.to_owned(), node.1.to_owned(), node.2.to_owned()));
        assert_eq!(planned(3, "127.0.0.254"), Ok(expected.to_vec()));
    }

    #[tokio::test]
    async fn what_a_node_has_said_is_passed_on_before_its_end_is_told() {
        let mut command = Command::new("sh");
        // Whoever has its output still says something when it has ended.
        command.args(["-c", "(sleep 0.2; echo last words; echo last words >&2) & exit 3"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let node = NodeProcess::watched("node-1".to_owned(), Vec::new(), command).unwrap();
        let (node, status) = node.ended(CancellationToken::new(), Duration::ZERO).await;
        assert_eq!(status.unwrap().code(), Some(3));
        assert!(node.outputs.len() == 2 && node.outputs.iter().all(JoinHandle::is_finished), "words are lost");
    }

    #[test]
    fn addresses_that_others_see_are_refused() {
        for host in ["0.0.0.0", "192.0.2.1", "::1"] {
            let refusal = planned(2, host).unwrap_err();
            assert!(refusal.contains(host) && refusal.contains("127.0.0.0/8"), "{refusal}");
        }
        let refusal = planned(3, "127.255.255.254").unwrap_err();
        assert_eq!(refusal, "there are not 3 loopback addresses from 127.255.255.254 on");
    }

    #[test]
    fn the_words_can_be_typed() {
        let node = plan(1, "127.0.0.1".parse().unwrap(), Path::new("/my data")).unwrap().remove(0);
        let words = node.words("https://127.0.0.1:6443", Path::new("/it's"), &["--label=a=b".into(), "".into()]);
        assert_eq!(
            in_a_shell(&words),
            "node --name node-1 --server https://127.0.0.1:6443 --address 127.0.0.1 --credentials '/it'\\''s' \
             --data-dir '/my data/node' --label=a=b '' --shutdown-grace=5"
        );
    }
}
