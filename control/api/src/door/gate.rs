//! The one place that asks whether somebody may do something.

use super::{Door, Target};
use crate::{
    auth,
    identity::{Attributes, Identity},
};
use coracle_objects::ApiError;
use serde_json::Value;

/// What is asked beyond the target.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    /// The object as stored.
    pub(crate) object: Option<&'a Value>,
    /// Name that the body of a creation asks for.
    pub(crate) new_name: &'a str,
    /// Field selector of a list or watch.
    pub(crate) field_selector: &'a str,
}

impl Door {
    /// Refuses what `identity` may not do.
    ///
    /// # Errors
    /// 403 as kube-apiserver words it.
    #[expect(
        clippy::unused_self,
        reason = "who may do what is asked of the door; today the answer needs nothing of it"
    )]
    pub(crate) fn authorize(
        &self,
        identity: &Identity,
        verb: &str,
        target: &Target,
        asked: Asked<'_>,
    ) -> Result<(), ApiError> {
        let attributes = Attributes {
            verb,
            group: target.kind.group,
            resource: target.kind.plural,
            subresource: target.subresource,
            namespace: &target.namespace,
            name: if asked.new_name.is_empty() { &target.name } else { asked.new_name },
            object: asked.object,
            field_selector: asked.field_selector,
        };
        auth::authorize(identity, &attributes)
    }
}
