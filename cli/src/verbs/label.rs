//! `coracle label`: labels of any object.

use super::{
    ScopeArgs,
    print::{qualified, refusal},
    target,
};
use anyhow::{Result, bail};
use clap::Args;
use coracle_objects::meta;
use coracle_sdk::connection::ListOptions;
use serde_json::{Map, Value, json};
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// Put labels on objects, or take them off.
#[derive(Debug, Args)]
pub(crate) struct Label {
    #[command(flatten)]
    scope: ScopeArgs,
    /// KIND NAME… or KIND/NAME…, then KEY=VALUE… or, to take off, KEY-
    #[arg(required = true)]
    words: Vec<String>,
    /// Label selector of objects, instead of names
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// All objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// Labels that are there may get another value
    #[arg(long)]
    overwrite: bool,
}

/// The labels that change; null takes one off.
fn changes(words: &[String]) -> Result<Map<String, Value>> {
    let mut changes = Map::new();
    for word in words {
        let (key, value) = match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) => (key, Value::from(value)),
            (None, Some(key)) => (key, Value::Null),
            (None, None) => bail!("\"{word}\" is no label: it must be KEY=VALUE, or KEY- to take one off"),
        };
        if key.is_empty() || changes.insert(key.to_owned(), value).is_some() {
            bail!("\"{word}\" names no label, or one that another word names too");
        }
    }
    Ok(changes)
}

/// What is said of an object whose labels `old` change; an error for one that would get another value unasked.
fn outcome(old: &Value, changes: &Map<String, Value>, overwrite: bool) -> Result<&'static str, String> {
    let mut said = "not labeled";
    for (key, value) in changes {
        match (old.get(key), value) {
            (None, Value::Null) => {}
            (Some(_), Value::Null) => said = if said == "labeled" { said } else { "unlabeled" },
            (Some(old), new) if old == new => {}
            (Some(old), _) if !overwrite => {
                let old = old.as_str().unwrap_or_default();
                return Err(format!("'{key}' already has a value ({old}), and --overwrite is not given"));
            }
            (_, _) => said = "labeled",
        }
    }
    Ok(said)
}

impl Label {
    pub(super) async fn run(self) -> Result<ExitCode> {
        // No object's name ends with a hyphen.
        let is_change = |word: &String| word.contains('=') || word.ends_with('-');
        let Some(first) = self.words.iter().position(is_change) else {
            bail!("at least one label is needed: KEY=VALUE, or KEY- to take one off");
        };
        let (named, words) = self.words.split_at(first);
        let (changes, (connection, namespace)) = (changes(words)?, self.scope.connect()?);
        for target in target::parse(named)? {
            let found = match &target.name {
                Some(name) => vec![connection.get(target.kind, &target.key(name, &namespace)).await.map_err(refusal)?],
                None if self.all || self.selector.is_some() => {
                    let namespace = if target.kind.namespaced { namespace.clone() } else { String::new() };
                    let label_selector = self.selector.clone().unwrap_or_default();
                    let options = ListOptions { namespace, label_selector, ..ListOptions::default() };
                    connection.list(target.kind, &options).await.map_err(refusal)?.0
                }
                None => bail!("name the objects, or use -l or --all"),
            };
            for object in found {
                let shown = qualified(target.kind, meta::name(&object));
                let said = outcome(&object["metadata"]["labels"], &changes, self.overwrite)
                    .map_err(|why| anyhow::anyhow!("{shown}: {why}"))?;
                if said != "not labeled" {
                    let patch = json!({"metadata": {"labels": changes}});
                    connection.merge(target.kind, &meta::key(&object), &patch).await.map_err(refusal)?;
                }
                writeln!(io::stdout(), "{shown} {said}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_words_do_to_labels() {
        let old = json!({"a": "1", "b": "2"});
        let table: Vec<(&[&str], bool, Result<&str, &str>)> = vec![
            (&["c=3"], false, Ok("labeled")),
            (&["a=1"], false, Ok("not labeled")),
            (&["a=2"], false, Err("already has a value (1)")),
            (&["a=2"], true, Ok("labeled")),
            (&["a-"], false, Ok("unlabeled")),
            (&["c-"], false, Ok("not labeled")),
            (&["a-", "c=3"], false, Ok("labeled")),
            (&["c="], false, Ok("labeled")),
            (&["c"], false, Err("is no label")),
            (&["=c"], false, Err("names no label")),
            (&["a-", "a=2"], false, Err("another word names too")),
        ];
        for (words, overwrite, expected) in table {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let said = changes(&words).map_err(|error| error.to_string());
            match (said.and_then(|changes| outcome(&old, &changes, overwrite)), expected) {
                (Ok(said), Ok(expected)) => assert_eq!(said, expected, "{words:?}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{error:?} lacks {part:?}"),
                (got, expected) => panic!("{words:?}: {got:?} instead of {expected:?}"),
            }
        }
    }
}
