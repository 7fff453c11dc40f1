//! Whether a command may apply. Reads only; the first thing that is wrong is reported, in a fixed order: the command itself,
//! preconditions, counters, unique keys.

use super::Checked;
use super::staged::Staged;
use crate::command::{Command, Expect, Op, Rejection, Revision};
use std::collections::BTreeMap;

pub(super) fn check(command: &Command, staged: &Staged) -> Checked {
    well_formed(command)?;
    for (index, op) in command.ops.iter().enumerate() {
        precondition(index, op, staged)?;
    }
    counters(command, staged)?;
    uniques(command, staged)
}

fn well_formed(command: &Command) -> Checked {
    let malformed = |reason: String| Err(Rejection::Malformed { reason });
    let mut keys: Vec<&str> = Vec::with_capacity(command.ops.len());
    for op in &command.ops {
        match op {
            Op::Put { key, value, splice_at, .. } => {
                if splice_at.is_some_and(|at| at as usize > value.len()) {
                    return malformed(format!("the splice offset of {} lies behind its {} bytes", key.0, value.len()));
                }
                keys.push(&key.0);
            }
            Op::Delete { key, expect } => {
                if *expect == Expect::Absent {
                    return malformed(format!("{} is to be deleted and must not exist", key.0));
                }
                keys.push(&key.0);
            }
            Op::Check { key, .. } => keys.push(&key.0),
        }
    }
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => malformed(format!("{} is changed twice", pair[0])),
        None => Ok(()),
    }
}

fn precondition(index: usize, op: &Op, staged: &Staged) -> Checked {
    let (Op::Put { key, expect, .. } | Op::Delete { key, expect } | Op::Check { key, expect }) = op;
    let actual: Option<Revision> = staged.object_revision(key);
    let holds = match expect {
        Expect::Absent => actual.is_none(),
        Expect::Present => actual.is_some(),
        Expect::Revision(revision) => actual == Some(*revision),
    };
    if holds { Ok(()) } else { Err(Rejection::Precondition { index, actual }) }
}

fn counters(command: &Command, staged: &Staged) -> Checked {
    let mut values: BTreeMap<&str, i64> = BTreeMap::new();
    for change in &command.counters {
        let value = values.entry(&change.name).or_insert_with(|| staged.counter(&change.name));
        let over = Rejection::Counter { name: change.name.clone(), value: *value };
        let Some(sum) = value.checked_add(change.delta) else { return Err(over) };
        if change.delta > 0 && change.limit.is_some_and(|limit| sum > limit) {
            return Err(over);
        }
        *value = sum;
    }
    Ok(())
}

fn uniques(command: &Command, staged: &Staged) -> Checked {
    let mut holders: BTreeMap<&str, Option<String>> = BTreeMap::new();
    for change in &command.uniques {
        let holder = holders.entry(&change.key).or_insert_with(|| staged.unique(&change.key));
        if let (Some(wanted), Some(held)) = (&change.holder, &*holder)
            && wanted != held
        {
            return Err(Rejection::Unique { key: change.key.clone(), holder: held.clone() });
        }
        holder.clone_from(&change.holder);
    }
    Ok(())
}
