//! What a person types to name objects: `pods`, `pod/web`, `pods,services`, `pod web db`.

use anyhow::{Result, bail};
use coracle_objects::{Kind, ObjectKey, catalogue};

/// Kinds or objects named on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Which kind.
    pub kind: &'static Kind,
    /// Which object; `None`: all of them.
    pub name: Option<String>,
}

/// Reads the words behind a verb.
pub(super) fn parse(words: &[String]) -> Result<Vec<Target>> {
    let Some((first, rest)) = words.split_first() else {
        bail!("you must say which kind: for example `pods`, `pod/NAME` or `pods,services`");
    };
    if words.iter().all(|word| word.contains('/')) {
        return words.iter().map(|word| slashed(word)).collect();
    }
    let kinds = first.split(',').map(kind).collect::<Result<Vec<_>>>()?;
    if rest.is_empty() {
        return Ok(kinds.into_iter().map(|kind| Target { kind, name: None }).collect());
    }
    if let Some(odd) = rest.iter().find(|word| word.contains('/')) {
        bail!("there is no need to name the kind twice: \"{odd}\" has a slash, and \"{first}\" stands before it");
    }
    let pairs = kinds.iter().flat_map(|kind| rest.iter().map(|name| Target { kind, name: Some(name.clone()) }));
    Ok(pairs.collect())
}

fn slashed(word: &str) -> Result<Target> {
    match word.split_once('/') {
        Some((alias, name)) if !name.is_empty() && !name.contains('/') => {
            Ok(Target { kind: kind(alias)?, name: Some(name.to_owned()) })
        }
        _ => bail!("\"{word}\" names nothing: it must be KIND/NAME"),
    }
}

fn kind(alias: &str) -> Result<&'static Kind> {
    if let Some(kind) = catalogue::by_alias(alias) {
        return Ok(kind);
    }
    let known: Vec<&str> = catalogue::all().iter().map(|kind| kind.plural).collect();
    bail!("the server doesn't have a resource type \"{alias}\"; it has {}", known.join(", "));
}

impl Target {
    /// The key of the named object in `namespace`.
    pub(super) fn key(&self, name: &str, namespace: &str) -> ObjectKey {
        if self.kind.namespaced { ObjectKey::namespaced(namespace, name) } else { ObjectKey::cluster(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str]) -> Result<Vec<String>, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let targets = parse(&words).map_err(|error| error.to_string())?;
        Ok(targets.iter().map(|t| format!("{} {}", t.kind.plural, t.name.as_deref().unwrap_or("*"))).collect())
    }

    #[test]
    fn reads_every_form() {
        for (words, expected) in [
            (&["po"][..], &["pods *"][..]),
            (&["pods,svc"], &["pods *", "services *"]),
            (&["pod", "a", "b"], &["pods a", "pods b"]),
            (&["pod/a", "service/b"], &["pods a", "services b"]),
        ] {
            assert_eq!(shown(words).unwrap(), expected, "{words:?}");
        }
    }

    #[test]
    fn says_what_would_be_right() {
        for (words, part) in [
            (&[][..], "you must say which kind"),
            (&["gadgets"], "doesn't have a resource type \"gadgets\"; it has "),
            (&["pod/"], "must be KIND/NAME"),
            (&["pod", "service/b"], "kind twice"),
        ] {
            let error = shown(words).unwrap_err();
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
}
