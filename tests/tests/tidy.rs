//! Tidy is an ordinary test: walls between crates, lengths, and what must not stand in sources. A ratchet that only
//! tightens: lower a number here when the code allows it, never raise it without an argument.

use coracle_tests::repository;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Longest source file in lines; one that is longer tells more than one story.
const FILE_LINES_MAX: usize = 800;

/// What each crate of ours may use of ours (dependencies run one way).
const WALLS: &[(&str, &[&str])] = &[
    ("coracle-wire", &[]),
    ("coracle-objects", &[]),
    ("coracle-store", &["coracle-objects"]),
    ("coracle-raft", &["coracle-store", "coracle-wire"]),
    ("coracle-client", &["coracle-objects"]),
    ("coracle-scheduler", &["coracle-client", "coracle-objects"]),
    ("coracle-controllers", &["coracle-client", "coracle-objects"]),
    ("coracle-api", &["coracle-client", "coracle-objects", "coracle-store", "coracle-wire"]),
    (
        "coracle-server",
        &[
            "coracle-api",
            "coracle-client",
            "coracle-controllers",
            "coracle-objects",
            "coracle-raft",
            "coracle-scheduler",
            "coracle-store",
        ],
    ),
    ("coracle-runner", &[]),
    ("coracle-net", &["coracle-objects"]),
    ("coracle-images", &["coracle-objects"]),
    ("coracle-agent", &["coracle-images", "coracle-net", "coracle-objects", "coracle-runner", "coracle-wire"]),
    ("coracle-node", &["coracle-agent", "coracle-runner"]),
    ("coracle-sdk", &["coracle-objects", "coracle-wire"]),
    ("coracle", &["coracle-agent", "coracle-node", "coracle-objects", "coracle-sdk", "coracle-server"]),
    ("coracle-tests", &["coracle-objects", "coracle-sdk"]),
];

/// Third-party crates that only some of ours may use.
const FENCED: &[(&str, &[&str])] = &[
    ("rocksdb", &["coracle-store", "coracle-raft"]),
    ("raft", &["coracle-raft"]),
    ("wasmtime", &["coracle-runner"]),
    ("wasmtime-wasi", &["coracle-runner"]),
    ("clap", &["coracle", "coracle-node"]),
    ("anyhow", &["coracle", "coracle-node", "coracle-tests"]),
];

/// Crates that must stay pure.
const PURE: &[(&str, &[&str])] =
    &[("coracle-objects", &["tokio", "rocksdb", "tonic", "hyper", "axum", "reqwest", "rand"])];

fn packages() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let normal = |dependency: &&Value| dependency["kind"].is_null();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            let names = dependencies.iter().filter(normal).map(|one| one["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect()
}

#[test]
fn no_wall_is_crossed() {
    let packages = packages();
    let known: Vec<&str> = WALLS.iter().map(|wall| wall.0).collect();
    assert_eq!(packages.keys().map(String::as_str).filter(|name| !known.contains(name)).collect::<Vec<_>>(), [""; 0]);
    let mut crossed = Vec::new();
    for (name, allowed) in WALLS {
        for dependency in packages[*name].iter().filter(|one| known.contains(&one.as_str())) {
            if !allowed.contains(&dependency.as_str()) {
                crossed.push(format!("{name} uses {dependency}"));
            }
        }
    }
    for (fenced, allowed) in FENCED {
        let users = packages.iter().filter(|(_, dependencies)| dependencies.iter().any(|one| one == fenced));
        let intruders = users.filter(|(name, _)| !allowed.contains(&name.as_str()));
        crossed.extend(intruders.map(|(name, _)| format!("{name} uses {fenced}")));
    }
    for (name, forbidden) in PURE {
        let impure = packages[*name].iter().filter(|one| forbidden.contains(&one.as_str()));
        crossed.extend(impure.map(|one| format!("{name} must stay pure and uses {one}")));
    }
    assert_eq!(crossed, [""; 0], "see ARCHITECTURE.md for which way dependencies run");
}

fn sources() -> Vec<(PathBuf, String)> {
    let output = Command::new("git").args(["ls-files", "*.rs"]).current_dir(repository()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let files: Vec<_> = names.lines().map(|name| (PathBuf::from(name), read(&repository().join(name)))).collect();
    assert!(files.len() > 50, "git lists only {} sources", files.len());
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn files_tell_one_story() {
    let long = sources().into_iter().map(|(path, text)| (path, text.lines().count()));
    let long: Vec<_> = long.filter(|(_, lines)| *lines > FILE_LINES_MAX).collect();
    assert_eq!(long, [], "files over {FILE_LINES_MAX} lines");
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent = sources().into_iter().filter(|(_, text)| !text.trim_start().starts_with("//!"));
    let silent: Vec<_> = silent.map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "{silent:?}: a file begins with //! and says what it is for");
}

#[test]
fn nothing_is_left_undone() {
    // Spelled apart, so that this file does not find itself.
    let banned = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("#[ig", "nore"),
        concat!("#[al", "low("),
        concat!("#![al", "low("),
    ];
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (index, line) in text.lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{}: {word}", path.display(), index + 1));
            }
        }
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn modules_are_named_after_what_they_hold() {
    let vague = ["utils", "util", "common", "helpers", "helper", "misc"];
    let found: Vec<_> = sources()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.iter().any(|part| vague.contains(&part.to_string_lossy().trim_end_matches(".rs"))))
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

/// That its tests fail without a guard is `make guards`' to show, which takes long; that it would find what it takes out
/// is seen here.
#[test]
fn the_table_of_guards_belongs_to_these_sources() {
    let checked = Command::new(repository().join("scripts/guards.sh")).arg("--check").output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
