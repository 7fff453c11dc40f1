//! What a node has to be told next: changes by object, so that what changes faster than it reads is told once. Pure.

use super::part::Part;
use bytes::Bytes;
use coracle_store::{Key, Revision};
use coracle_wire::v1::{ViewChange, ViewGone, ViewKind, ViewUpdate, view_change};
use std::collections::{BTreeMap, VecDeque};

/// Bytes of objects in one message, unless a single one is larger.
const MESSAGE_BYTES: usize = 256 * 1024;

/// One object's change. Bytes are shared by all who are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It is this now.
    Put(Bytes),
    /// It is gone.
    Gone,
}

/// What of the view changed and was not told yet. Bounded by the number of objects that there are and of those that
/// [went](Self::gone) meanwhile.
#[derive(Debug, Default)]
pub(super) struct Batch {
    whole: bool,
    all_pods: bool,
    /// Pods by their uids too: one that is gone and one that took its name are two.
    changes: BTreeMap<(Part, Key, String), Change>,
    gone: usize,
}

impl Batch {
    /// A whole view; nothing is in it yet.
    pub(super) fn whole() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// Says that all pods are in it.
    pub(super) fn has_all_pods(&mut self) {
        self.all_pods = true;
    }

    /// Notes the newest of an object that is no pod.
    pub(super) fn note(&mut self, part: Part, key: &Key, change: Change) {
        self.insert((part, key.clone(), String::new()), change);
    }

    /// Notes the newest of a pod.
    pub(super) fn note_pod(&mut self, key: &Key, uid: &str, change: Change) {
        self.insert((Part::Pods, key.clone(), uid.to_owned()), change);
    }

    fn insert(&mut self, object: (Part, Key, String), change: Change) {
        self.gone += usize::from(change == Change::Gone);
        if self.changes.insert(object, change) == Some(Change::Gone) {
            self.gone -= 1;
        }
    }

    /// How many objects in it are gone.
    pub(super) fn gone(&self) -> usize {
        self.gone
    }

    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        !self.whole && !self.all_pods && self.changes.is_empty()
    }

    /// As messages; the last says that everything up to `revision` is told. Pods come last, those that are gone in front of
    /// those that are there: a new one may need their room.
    pub(super) fn into_messages(self, revision: Revision, history: &str) -> VecDeque<ViewUpdate> {
        let arrives = |(part, change): (Part, &Change)| part == Part::Pods && matches!(change, Change::Put(_));
        let (last, first): (Vec<_>, Vec<_>) =
            self.changes.into_iter().partition(|((part, ..), change)| arrives((*part, change)));
        let mut messages = VecDeque::new();
        let mut current = ViewUpdate { whole: self.whole, all_pods: self.all_pods, ..ViewUpdate::default() };
        let mut bytes = 0;
        for ((part, key, uid), change) in first.into_iter().chain(last) {
            let length = if let Change::Put(object) = &change { object.len() } else { key.0.len() };
            if bytes > 0 && bytes + length > MESSAGE_BYTES {
                messages.push_back(std::mem::take(&mut current));
                bytes = 0;
            }
            bytes += length;
            current.changes.push(wire(part, &key, uid, change));
        }
        current.revision = revision.0;
        history.clone_into(&mut current.history);
        messages.push_back(current);
        messages
    }
}

fn wire(part: Part, key: &Key, uid: String, change: Change) -> ViewChange {
    let change = match change {
        Change::Put(object) => view_change::Change::Object(object),
        Change::Gone => {
            let (namespace, name) = part.place(key);
            view_change::Change::Gone(ViewGone { namespace: namespace.to_owned(), name: name.to_owned(), uid })
        }
    };
    ViewChange { kind: ViewKind::from(part).into(), change: Some(change) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key(text.to_owned())
    }

    #[test]
    fn what_pods_need_comes_first_and_a_pod_makes_room_before_another_comes() {
        let mut batch = Batch::default();
        let object = |text: &'static str| Change::Put(Bytes::from_static(text.as_bytes()));
        batch.note_pod(&key("/pods/a/p"), "new", object("new"));
        batch.note_pod(&key("/pods/a/p"), "old", object("old"));
        batch.note_pod(&key("/pods/a/p"), "old", Change::Gone);
        batch.note(Part::Services, &key("/services/a/s"), object("first"));
        batch.note(Part::Services, &key("/services/a/s"), object("second"));
        let messages = batch.into_messages(Revision(7), "h");
        assert_eq!(messages.len(), 1);
        let told: Vec<(ViewKind, String)> = messages[0]
            .changes
            .iter()
            .map(|change| {
                let text = match change.change.clone().unwrap() {
                    view_change::Change::Object(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                    view_change::Change::Gone(gone) => format!("{}/{} {}", gone.namespace, gone.name, gone.uid),
                };
                (change.kind(), text)
            })
            .collect();
        let expected = [(ViewKind::Service, "second"), (ViewKind::Pod, "a/p old"), (ViewKind::Pod, "new")];
        assert_eq!(told, expected.map(|(kind, text)| (kind, text.to_owned())));
    }

    #[test]
    fn only_the_last_message_has_a_revision() {
        let mut batch = Batch::whole();
        for index in 0..5 {
            let object = Bytes::from(vec![b' '; MESSAGE_BYTES / 2]);
            batch.note(Part::ConfigMaps, &key(&format!("/configmaps/a/{index}")), Change::Put(object));
        }
        let messages = batch.into_messages(Revision(7), "h");
        let shape: Vec<_> = messages.iter().map(|one| (one.whole, one.changes.len(), one.revision)).collect();
        assert_eq!(shape, [(true, 2, 0), (false, 2, 0), (false, 1, 7)]);
        let nothing = Batch::whole().into_messages(Revision(3), "h");
        assert_eq!((nothing.len(), nothing[0].whole, nothing[0].revision), (1, true, 3));
    }
}
