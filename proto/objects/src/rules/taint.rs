//! Taints of nodes and tolerations of pods.

use super::{
    Causes, Path,
    access::{integer, text},
};
use crate::names::Spelling;
use serde_json::Value;
use std::collections::HashSet;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Taints: known effects, no key with the same effect twice.
pub(super) fn check_taints(path: &Path, taints: &[Value], causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (index, taint) in taints.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let path = path.index(index);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        causes.spelled(&path.child("key"), key, Spelling::QualifiedName);
        for problem in Spelling::LabelValue.problems(value) {
            causes.invalid(&path.child("value"), value, &problem);
        }
        causes.one_of(&path.child("effect"), effect, &EFFECTS);
        if !seen.insert((key, effect)) {
            causes.duplicate(&path, taint.clone());
        }
    }
}

/// Tolerations.
pub(super) fn check_tolerations(path: &Path, tolerations: &[Value], causes: &mut Causes) {
    for (index, toleration) in tolerations.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let path = path.index(index);
        let (key, value) = (text(toleration, "key"), text(toleration, "value"));
        let (operator, effect) = (text(toleration, "operator"), text(toleration, "effect"));
        if !key.is_empty() {
            causes.spelled(&path.child("key"), key, Spelling::QualifiedName);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.invalid(&path.child("operator"), operator, detail);
        }
        if integer(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.invalid(&path.child("effect"), effect, detail);
        }
        match operator {
            "Equal" | "" => {
                let problems = Spelling::LabelValue.problems(value);
                if !problems.is_empty() {
                    causes.invalid(&path.child("operator"), value, &problems.join(";"));
                }
            }
            "Exists" if value.is_empty() => {}
            "Exists" => {
                causes.invalid(&path.child("operator"), value, "value must be empty when `operator` is 'Exists'");
            }
            other => causes.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            causes.not_supported(&path.child("effect"), effect, &EFFECTS);
        }
    }
}
