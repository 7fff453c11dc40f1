//! The sources of the state machine name nothing that could differ between two servers: no clock, no randomness, no hash
//! map, no environment. Clippy refuses the calls; this refuses the words, also where a macro or an alias would hide them.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

const FORBIDDEN: &[&str] = &[
    "SystemTime",
    "Instant",
    "tokio::time",
    "rand::",
    "getrandom",
    "uuid",
    "HashMap",
    "HashSet",
    "RandomState",
    "DefaultHasher",
    "std::env",
    "thread_rng",
    "thread::current",
    "process::id",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn sources_name_nothing_that_differs_between_servers() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.iter().any(|path| path.ends_with("machine/mod.rs")), "looked in the wrong place");
    let mut hits = Vec::new();
    for path in files {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if let Some(word) = FORBIDDEN.iter().find(|word| line.contains(**word)) {
                hits.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(hits.is_empty(), "found {hits:#?}");
}
