//! The real kubectls, as `scripts/test.sh` found them.

use crate::hosts::Namespace;
use std::{
    env,
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// One kubectl binary with one kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
    /// Where it runs, if not where the test does.
    namespace: Option<Namespace>,
}

impl Kubectl {
    /// Every kubectl that the suites must pass with; a missing one is a failure, never a skip.
    ///
    /// # Panics
    /// When `CORACLE_TEST_KUBECTLS` names none.
    #[must_use]
    pub fn programs() -> Vec<PathBuf> {
        let named = env::var_os("CORACLE_TEST_KUBECTLS").unwrap_or_default();
        let programs: Vec<PathBuf> = env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()).collect();
        assert!(!programs.is_empty(), "CORACLE_TEST_KUBECTLS names no kubectl; run the tests with `make test`");
        programs
    }

    /// `program` with `kubeconfig`; its discovery cache goes below `cache`, not into the user's home.
    #[must_use]
    pub fn new(program: &Path, kubeconfig: &Path, cache: &Path) -> Self {
        let [program, kubeconfig, cache] = [program, kubeconfig, cache].map(Path::to_owned);
        Self { program, kubeconfig, cache, namespace: None }
    }

    /// The same, run on a host of the test's own.
    #[must_use]
    pub fn inside(self, namespace: &Namespace) -> Self {
        Self { namespace: Some(namespace.clone()), ..self }
    }

    /// The command, for tests that want its pipes.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(arguments)
            .stdin(Stdio::null())
            .env("HOME", &self.cache);
        if let Some(namespace) = &self.namespace {
            namespace.enter(&mut command);
        }
        command
    }

    /// Runs it; the words are split at spaces. Answers standard output, or on failure standard error.
    pub fn run(&self, words: &str) -> Result<String, String> {
        self.run_arguments(words.split_whitespace())
    }

    /// Runs it with exact arguments.
    pub fn run_arguments<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String, String> {
        let output = self.command(arguments).output().map_err(|error| format!("kubectl does not run: {error}"))?;
        texts(&output)
    }

    /// Runs it with `input` on standard input.
    pub fn run_with_input(&self, words: &str, input: &str) -> Result<String, String> {
        let mut command = self.command(words.split_whitespace());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("kubectl does not run: {error}"))?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        // kubectl may refuse before it has read everything; what it says then is what counts.
        drop(writer.join());
        texts(&output)
    }

    /// Applies a manifest given as text.
    pub fn apply(&self, manifest: &str) -> Result<String, String> {
        self.run_with_input("apply -f -", manifest)
    }

    /// `get … -o json`, parsed.
    pub fn json(&self, words: &str) -> Result<serde_json::Value, String> {
        let text = self.run(&format!("{words} -o json"))?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }
}

/// Standard output of a success (with what went to standard error behind it), standard error of a failure.
pub fn texts(output: &Output) -> Result<String, String> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(format!("{out}{err}")) } else { Err(format!("{err}{out}")) }
}
