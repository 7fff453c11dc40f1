//! Who owns whom, by name: only objects that have owners are in it.

use coracle_objects::{Kind, ObjectKey};
use std::{
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
};

/// An object of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Its kind.
    pub(crate) kind: &'static Kind,
    /// Where it is.
    pub(crate) key: ObjectKey,
}

impl Hash for Item {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kind.group, self.kind.kind, &self.key).hash(state);
    }
}

/// Dependents by owner, and owners by dependent.
#[derive(Debug, Default)]
pub(super) struct Index {
    owners_of: HashMap<Item, Vec<(Item, String)>>,
    dependents_of: HashMap<Item, HashSet<(Item, String)>>,
}

impl Index {
    /// `owners` (with the uids that the references name) replace what was known of `dependent`.
    pub(super) fn set_owners(&mut self, dependent: Item, owners: Vec<(Item, String)>) {
        if self.owners_of.get(&dependent).map_or(owners.is_empty(), |known| *known == owners) {
            return;
        }
        for (owner, uid) in self.owners_of.remove(&dependent).unwrap_or_default() {
            if let Some(dependents) = self.dependents_of.get_mut(&owner) {
                dependents.remove(&(dependent.clone(), uid));
                if dependents.is_empty() {
                    self.dependents_of.remove(&owner);
                }
            }
        }
        for (owner, uid) in &owners {
            self.dependents_of.entry(owner.clone()).or_default().insert((dependent.clone(), uid.clone()));
        }
        if !owners.is_empty() {
            self.owners_of.insert(dependent, owners);
        }
    }

    /// Those that name `owner` with another uid than it has now; `None`: it is gone.
    pub(super) fn orphaned_by(&self, owner: &Item, uid: Option<&str>) -> Vec<Item> {
        let dependents = self.dependents_of.get(owner).into_iter().flatten();
        dependents.filter(|(_, named)| Some(named.as_str()) != uid).map(|(item, _)| item.clone()).collect()
    }

    /// Keys of all objects of a kind that own something or are owned.
    pub(super) fn keys_of(&self, kind: &Kind) -> Vec<ObjectKey> {
        let items = self.owners_of.keys().chain(self.dependents_of.keys());
        items.filter(|item| item.kind == kind).map(|item| item.key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_objects::catalogue;

    fn item(kind: &'static Kind, name: &str) -> Item {
        Item { kind, key: ObjectKey::namespaced("a", name) }
    }

    #[test]
    fn owners_are_replaced_and_forgotten() {
        let mut index = Index::default();
        let (service, other) = (item(catalogue::services(), "s"), item(catalogue::services(), "t"));
        let slice = item(catalogue::endpoint_slices(), "s-1");
        index.set_owners(slice.clone(), vec![(service.clone(), "u1".to_owned())]);
        assert!(index.orphaned_by(&service, Some("u1")).is_empty());
        assert_eq!(index.orphaned_by(&service, Some("u2")), std::slice::from_ref(&slice), "another of the same name");
        assert_eq!(index.orphaned_by(&service, None), std::slice::from_ref(&slice));
        assert_eq!(index.keys_of(catalogue::services()), std::slice::from_ref(&service.key));
        index.set_owners(slice.clone(), vec![(other.clone(), "u3".to_owned())]);
        assert!(index.orphaned_by(&service, None).is_empty());
        index.set_owners(slice, Vec::new());
        assert!(index.owners_of.is_empty() && index.dependents_of.is_empty());
    }
}
