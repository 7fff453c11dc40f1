//! Deletion with the policy `Orphan`: what the object owns forgets its owner before the owner goes, so that the controller
//! that deletes what belonged to something gone never sees it as such.

use super::{Door, Target, delete::COLLECTION_PAGE, encode, read::ListOptions, target::WriteOptions};
use crate::identity::Identity;
use coracle_objects::{ApiError, Reason, catalogue, fields::Checked, kind::Verb, meta};
use serde_json::Value;

impl Door {
    /// Removes the owner reference to `owner` from everything that has it. The caller needs the right to patch that.
    pub(super) async fn disown_dependents(
        &self,
        identity: &Identity,
        owner: &Target,
        object: &Value,
    ) -> Result<(), ApiError> {
        let uid = meta::uid(object);
        // Events belong to nobody and are many. An owner in a namespace owns nothing outside of it.
        let kinds = catalogue::all().iter().filter(|kind| kind.allows(Verb::Patch) && **kind != catalogue::events());
        for kind in kinds.filter(|kind| kind.namespaced || owner.namespace.is_empty()) {
            let everything = Target::collection(kind, owner.namespace.as_str());
            let mut page = ListOptions { limit: COLLECTION_PAGE, ..ListOptions::default() };
            loop {
                let listed = self.list_unchecked(&everything, &page).await?;
                for entry in listed.entries {
                    let dependent = encode::decode(&entry.value)?;
                    if is_owned(&dependent, uid) {
                        let target = Target::object(kind, meta::namespace(&dependent), meta::name(&dependent));
                        self.disown(identity, &target, uid).await?;
                    }
                }
                if listed.continue_token.is_empty() {
                    break;
                }
                page.continue_token = listed.continue_token;
            }
        }
        Ok(())
    }

    async fn disown(&self, identity: &Identity, dependent: &Target, uid: &str) -> Result<(), ApiError> {
        let make = |old: &Value| {
            let mut object = old.clone();
            let Some(metadata) = object["metadata"].as_object_mut() else { return Ok(unwarned(object)) };
            if let Some(references) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
                references.retain(|reference| reference["uid"] != uid);
                if references.is_empty() {
                    metadata.shift_remove("ownerReferences");
                }
            }
            Ok(unwarned(object))
        };
        match self.modify(identity, "patch", dependent, WriteOptions::default(), &make).await {
            Err(error) if error.reason == Reason::NotFound => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

fn unwarned(object: Value) -> Checked {
    Checked { object, warnings: Vec::new() }
}

fn is_owned(object: &Value, uid: &str) -> bool {
    let references = object["metadata"]["ownerReferences"].as_array();
    references.is_some_and(|references| references.iter().any(|reference| reference["uid"] == uid))
}
