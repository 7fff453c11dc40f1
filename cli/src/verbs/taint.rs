//! `coracle taint`: which pods a node keeps away.

use super::{
    ClusterArgs,
    cordon::{NodeArgs, selected},
    print::refusal,
};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_objects::{ObjectKey, Reason, catalogue, meta};
use coracle_sdk::{Connection, connection::CallError};
use serde_json::{Value, json};
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// How often a change is made anew on what others wrote meanwhile.
const ATTEMPTS: usize = 16;

/// Put taints on nodes, or take them off.
#[derive(Debug, Args)]
pub(crate) struct Taint {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// node NAME… KEY=VALUE:EFFECT… or, to take off, KEY:EFFECT- or KEY-
    #[arg(required = true)]
    words: Vec<String>,
    /// Label selector of nodes, instead of names
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// All nodes
    #[arg(long)]
    all: bool,
    /// Taints that are there may get another value
    #[arg(long)]
    overwrite: bool,
}

/// What a taint may do, in the order in which they are named to people.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// One of the words behind the names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Put {
        key: String,
        value: String,
        effect: String,
    },
    /// An empty effect: whatever it is.
    Take {
        key: String,
        effect: String,
    },
}

impl Change {
    fn parse(word: &str) -> Result<Self> {
        let explain =
            || format!("\"{word}\" is no taint: it must be KEY=VALUE:EFFECT, KEY:EFFECT, KEY:EFFECT- or KEY-");
        if let Some(rest) = word.strip_suffix('-') {
            let (key, effect) = rest.split_once(':').unwrap_or((rest, ""));
            let key = key.split_once('=').map_or(key, |(key, _)| key);
            if key.is_empty() {
                bail!(explain());
            }
            if rest.contains(':') {
                check_effect(word, effect)?;
            }
            return Ok(Self::Take { key: key.to_owned(), effect: effect.to_owned() });
        }
        let (rest, effect) = word.rsplit_once(':').with_context(explain)?;
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        if key.is_empty() || effect.is_empty() {
            bail!(explain());
        }
        check_effect(word, effect)?;
        Ok(Self::Put { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
    }
}

fn check_effect(word: &str, effect: &str) -> Result<()> {
    if EFFECTS.contains(&effect) {
        return Ok(());
    }
    bail!("\"{word}\" is no taint: its effect must be {}, not \"{effect}\"", EFFECTS.join(", "))
}

/// That no two words are about the same taint: what would become of it is anybody's guess.
fn check_all(changes: &[Change]) -> Result<()> {
    for (index, change) in changes.iter().enumerate() {
        let Change::Put { key, effect, .. } = change else { continue };
        for (other_index, other) in changes.iter().enumerate() {
            match other {
                Change::Put { key: other_key, effect: other_effect, .. }
                    if other_index < index && (other_key, other_effect) == (key, effect) =>
                {
                    bail!("{key}:{effect} is named twice");
                }
                Change::Take { key: other_key, effect: other_effect }
                    if other_key == key && (other_effect.is_empty() || other_effect == effect) =>
                {
                    bail!("can not both modify and remove the following taint(s) in the same command: {key}:{effect}");
                }
                Change::Put { .. } | Change::Take { .. } => {}
            }
        }
    }
    Ok(())
}

/// The taints after the changes, and whether any was put there.
fn changed(node: &Value, changes: &[Change], overwrite: bool) -> Result<(Vec<Value>, bool)> {
    let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let (name, mut has_put) = (meta::name(node), false);
    for change in changes {
        match change {
            Change::Take { key, effect } => {
                let before = taints.len();
                taints.retain(|one| {
                    one["key"] != key.as_str() || !(effect.is_empty() || one["effect"] == effect.as_str())
                });
                if taints.len() == before {
                    let full = if effect.is_empty() { key.clone() } else { format!("{key}:{effect}") };
                    bail!("taint \"{full}\" not found on node/{name}");
                }
            }
            Change::Put { key, value, effect } => {
                has_put = true;
                let mut taint = json!({"key": key, "effect": effect});
                if !value.is_empty() {
                    taint["value"] = value.as_str().into();
                }
                match taints.iter_mut().find(|one| one["key"] == key.as_str() && one["effect"] == effect.as_str()) {
                    Some(one) if one["value"].as_str().unwrap_or_default() == value => {}
                    Some(one) if overwrite => *one = taint,
                    Some(_) => {
                        bail!("node/{name} already has {key} taint(s) with the effect {effect}; use --overwrite")
                    }
                    None => taints.push(taint),
                }
            }
        }
    }
    Ok((taints, has_put))
}

impl Taint {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, _) = self.cluster.connect()?;
        let Some((kind, rest)) = self.words.split_first() else { bail!("name the nodes and their taints") };
        if catalogue::by_alias(kind) != Some(catalogue::nodes()) {
            bail!("only nodes have taints: `coracle taint node NAME KEY=VALUE:EFFECT`");
        }
        let is_change = |word: &String| word.contains(':') || word.contains('=') || word.ends_with('-');
        let (changes, names): (Vec<&String>, Vec<&String>) = rest.iter().partition(|word| is_change(word));
        let changes = changes.into_iter().map(|word| Change::parse(word)).collect::<Result<Vec<_>>>()?;
        if changes.is_empty() {
            bail!("at least one taint is needed: KEY=VALUE:EFFECT, or KEY- to take one off");
        }
        check_all(&changes)?;
        let nodes = if self.all {
            selected(&connection, "").await?
        } else {
            let names = names.into_iter().cloned().collect();
            NodeArgs { names, selector: self.selector.clone() }.find(&connection).await?
        };
        for node in nodes {
            let has_put = self.change(&connection, node.clone(), &changes).await?;
            writeln!(io::stdout(), "node/{} {}", meta::name(&node), if has_put { "tainted" } else { "untainted" })?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn change(&self, connection: &Connection, mut node: Value, changes: &[Change]) -> Result<bool> {
        let key = ObjectKey::cluster(meta::name(&node));
        for _ in 0..ATTEMPTS {
            let (taints, has_put) = changed(&node, changes, self.overwrite)?;
            let patch =
                json!({"metadata": {"resourceVersion": meta::resource_version(&node)}, "spec": {"taints": taints}});
            match connection.merge(catalogue::nodes(), &key, &patch).await {
                Ok(_) => return Ok(has_put),
                Err(CallError::Refused(error)) if error.reason == Reason::Conflict => {
                    node = connection.get(catalogue::nodes(), &key).await.map_err(refusal)?;
                }
                Err(error) => return Err(refusal(error)),
            }
        }
        bail!("node/{} does not stop changing", key.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static [&'static str], bool, Result<(&'static str, bool), &'static str>);

    #[test]
    fn words_change_taints_as_kubectl_reads_them() {
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "a", "value": "1", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]}});
        let after = |words: &[&str], overwrite: bool| {
            let changes =
                words.iter().map(|word| Change::parse(word)).collect::<Result<Vec<_>>>().map_err(|e| e.to_string())?;
            check_all(&changes).map_err(|error| error.to_string())?;
            let (taints, has_put) = changed(&node, &changes, overwrite).map_err(|error| error.to_string())?;
            let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
            let shown: Vec<_> = taints
                .iter()
                .map(|one| format!("{}={}:{}", text(one, "key"), text(one, "value"), text(one, "effect")))
                .collect();
            Ok::<_, String>((shown.join(" "), has_put))
        };
        let table: Vec<Row> = vec![
            (&["b=2:NoSchedule"], false, Ok(("a=1:NoSchedule a=:NoExecute b=2:NoSchedule", true))),
            (&["b:NoExecute"], false, Ok(("a=1:NoSchedule a=:NoExecute b=:NoExecute", true))),
            (&["a-"], false, Ok(("", false))),
            (&["a:NoExecute-"], false, Ok(("a=1:NoSchedule", false))),
            (&["a=1:NoSchedule"], false, Ok(("a=1:NoSchedule a=:NoExecute", true))),
            (&["a=2:NoSchedule"], true, Ok(("a=2:NoSchedule a=:NoExecute", true))),
            (&["a=2:NoSchedule"], false, Err("use --overwrite")),
            (&["b-"], false, Err("not found")),
            (&["b=2"], false, Err("is no taint")),
            (&["=2:NoSchedule"], false, Err("is no taint")),
            (&["-"], false, Err("is no taint")),
            (&["a=2:Nonsense"], false, Err("\"a=2:Nonsense\" is no taint: its effect must be NoSchedule,")),
            (&["a:Nonsense-"], false, Err("not \"Nonsense\"")),
            (
                &["b:NoSchedule", "b-"],
                false,
                Err("both modify and remove the following taint(s) in the same command: b:N"),
            ),
            (&["a:NoExecute-", "a=2:NoExecute"], true, Err("both modify and remove")),
            (&["a:NoExecute-", "a=2:NoSchedule"], true, Ok(("a=2:NoSchedule", true))),
            (&["b=1:NoExecute", "b=2:NoExecute"], true, Err("named twice")),
        ];
        for (words, overwrite, expected) in table {
            match (after(words, overwrite), expected) {
                (Ok((shown, has_put)), Ok(expected)) => assert_eq!((shown.as_str(), has_put), expected, "{words:?}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{error:?} lacks {part:?}"),
                (got, expected) => panic!("{words:?}: {got:?} instead of {expected:?}"),
            }
        }
    }
}
