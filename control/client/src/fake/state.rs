//! The rules of the fake door: as much of Kubernetes' behaviour as controllers rely on, no more.

use crate::{DeleteOptions, Event, Part, Query, Write};
use coracle_objects::{
    ApiError, Kind, ObjectKey, catalogue, meta,
    selector::{FieldSelector, LabelSelector},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

type Stored = Result<Arc<Value>, ApiError>;

/// One change, as a watch sees it.
pub(super) struct Record {
    pub(super) revision: u64,
    pub(super) kind: &'static Kind,
    /// The new state, or the last one with the deletion's revision.
    pub(super) object: Arc<Value>,
    pub(super) previous: Option<Arc<Value>>,
    pub(super) gone: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) revision: u64,
    /// Watches from before this revision are refused.
    pub(super) compacted: u64,
    pub(super) history: Vec<Record>,
    objects: BTreeMap<(&'static str, &'static str, ObjectKey), Arc<Value>>,
    names: u64,
}

fn slot(kind: &'static Kind, key: &ObjectKey) -> (&'static str, &'static str, ObjectKey) {
    (kind.group, kind.plural, key.clone())
}

/// A query with its selectors parsed.
pub(super) struct Filter {
    namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    pub(super) fn new(kind: &Kind, query: &Query) -> Result<Self, ApiError> {
        let text = |text: &str| !text.is_empty();
        let labels = text(&query.label_selector).then(|| LabelSelector::parse(&query.label_selector));
        let fields = text(&query.field_selector).then(|| FieldSelector::parse(&query.field_selector, kind));
        Ok(Self {
            namespace: query.namespace.clone(),
            labels: labels.transpose()?.unwrap_or_default(),
            fields: fields.transpose()?.unwrap_or_default(),
        })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == meta::namespace(object))
            && (self.labels == LabelSelector::default() || self.labels.matches(&object["metadata"]["labels"]))
            && (self.fields == FieldSelector::default() || self.fields.matches(object))
    }

    /// What a watch with this filter yields for a change.
    pub(super) fn event(&self, record: &Record) -> Option<Event> {
        let was = record.previous.as_ref().is_some_and(|object| self.matches(object));
        let is = !record.gone && self.matches(&record.object);
        match (was, is) {
            (_, true) => Some(Event::Applied(Arc::clone(&record.object))),
            (true, false) => Some(Event::Deleted(Arc::clone(&record.object))),
            (false, false) => None,
        }
    }
}

impl State {
    pub(super) fn get(&self, kind: &'static Kind, key: &ObjectKey) -> Stored {
        self.objects.get(&slot(kind, key)).cloned().ok_or_else(|| kind.not_found(&key.name))
    }

    pub(super) fn list(&self, kind: &'static Kind, filter: &Filter) -> Vec<Arc<Value>> {
        let of_kind =
            self.objects.iter().filter(|((group, plural, _), _)| *group == kind.group && *plural == kind.plural);
        of_kind.filter(|(_, object)| filter.matches(object)).map(|(_, object)| Arc::clone(object)).collect()
    }

    pub(super) fn write(&mut self, write: Write, now: &str) -> Stored {
        match write {
            Write::Create(kind, object) => self.create(kind, object, now),
            Write::Update(kind, part, object) => self.update(kind, part, object),
            Write::Delete(kind, key, options) => self.delete(kind, &key, &options, now),
            Write::Bind { pod, uid, node } => self.bind(&pod, &uid, &node, now),
        }
    }

    /// Stores `object` whatever was there, as somebody else's doing.
    pub(super) fn put(&mut self, kind: &'static Kind, mut object: Value, now: &str) -> Arc<Value> {
        let key = meta::key(&object);
        let previous = self.objects.get(&slot(kind, &key)).cloned();
        let same =
            previous.as_ref().filter(|old| meta::uid(&object).is_empty() || meta::uid(old) == meta::uid(&object));
        if meta::uid(&object).is_empty() {
            let uid = same.map_or_else(|| self.new_uid(), |old| meta::uid(old).to_owned());
            object["metadata"]["uid"] = uid.into();
        }
        if object["metadata"]["creationTimestamp"].is_null() {
            object["metadata"]["creationTimestamp"] = now.into();
        }
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.kind.into();
        self.store(kind, object)
    }

    pub(super) fn remove(&mut self, kind: &'static Kind, key: &ObjectKey) -> Stored {
        let last = self.objects.remove(&slot(kind, key)).ok_or_else(|| kind.not_found(&key.name))?;
        self.revision += 1;
        let mut object = Value::clone(&last);
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let record =
            Record { revision: self.revision, kind, object: Arc::clone(&object), previous: Some(last), gone: true };
        self.history.push(record);
        Ok(object)
    }

    fn new_uid(&mut self) -> String {
        self.names += 1;
        format!("uid-{}", self.names)
    }

    fn store(&mut self, kind: &'static Kind, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let previous = self.objects.insert(slot(kind, &meta::key(&object)), Arc::clone(&object));
        let record = Record { revision: self.revision, kind, object: Arc::clone(&object), previous, gone: false };
        self.history.push(record);
        object
    }

    fn create(&mut self, kind: &'static Kind, mut object: Value, now: &str) -> Stored {
        if meta::name(&object).is_empty() {
            let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
            self.names += 1;
            object["metadata"]["name"] = format!("{prefix}{}", self.names).into();
        }
        let key = meta::key(&object);
        if self.get(kind, &key).is_ok() {
            return Err(kind.already_exists(&key.name));
        }
        if kind.namespaced && self.is_namespace_terminating(&key.namespace) {
            return Err(ApiError::forbidden(kind.group, kind.plural, &key.name, "the namespace is being terminated"));
        }
        Ok(self.put(kind, object, now))
    }

    fn is_namespace_terminating(&self, namespace: &str) -> bool {
        let namespace = self.get(catalogue::namespaces(), &ObjectKey::cluster(namespace));
        namespace.is_ok_and(|namespace| meta::is_terminating(&namespace))
    }

    fn update(&mut self, kind: &'static Kind, part: Part, object: Value) -> Stored {
        let key = meta::key(&object);
        let old = self.get(kind, &key)?;
        let expected = meta::resource_version(&object);
        if !expected.is_empty() && expected != meta::resource_version(&old) {
            return Err(kind.conflict(&key.name, "the object has been modified"));
        }
        let mut new = Value::clone(&old);
        match part {
            Part::Object => {
                new = object;
                copy(&mut new, &old, "status");
                for field in ["uid", "creationTimestamp", "deletionTimestamp", "resourceVersion"] {
                    copy(&mut new["metadata"], &old["metadata"], field);
                }
            }
            Part::Status => copy(&mut new, &object, "status"),
            Part::Finalize => new["spec"]["finalizers"] = object["spec"]["finalizers"].clone(),
        }
        if meta::is_terminating(&new) && is_released(&new) && kind == catalogue::namespaces() {
            return self.remove(kind, &key);
        }
        if new == *old {
            return Ok(old);
        }
        Ok(self.store(kind, new))
    }

    fn delete(&mut self, kind: &'static Kind, key: &ObjectKey, options: &DeleteOptions, now: &str) -> Stored {
        let old = self.get(kind, key)?;
        let differs = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_some_and(|wanted| wanted != actual);
        if differs(&options.uid, meta::uid(&old)) || differs(&options.resource_version, meta::resource_version(&old)) {
            return Err(kind.conflict(&key.name, "the precondition does not hold"));
        }
        let grace = options.grace_period_seconds.or(old["spec"]["terminationGracePeriodSeconds"].as_i64());
        let is_bound = kind == catalogue::pods() && old["spec"]["nodeName"].is_string();
        let grace = if is_bound { grace.unwrap_or(30) } else { 0 };
        if grace == 0 && is_released(&old) {
            return self.remove(kind, key);
        }
        if meta::is_terminating(&old) {
            return Ok(old);
        }
        let mut new = Value::clone(&old);
        new["metadata"]["deletionTimestamp"] = now.into();
        new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if kind == catalogue::namespaces() {
            new["status"]["phase"] = "Terminating".into();
        }
        Ok(self.store(kind, new))
    }

    fn bind(&mut self, pod: &ObjectKey, uid: &str, node: &str, now: &str) -> Stored {
        let kind = catalogue::pods();
        let old = self.get(kind, pod)?;
        if meta::uid(&old) != uid {
            return Err(kind.conflict(&pod.name, "the uid is another"));
        }
        if old["spec"]["nodeName"].is_string() {
            return Err(kind.conflict(&pod.name, "the pod is already assigned to a node"));
        }
        let mut new = Value::clone(&old);
        new["spec"]["nodeName"] = node.into();
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now});
        let others = old["status"]["conditions"].as_array().into_iter().flatten();
        let others = others.filter(|condition| condition["type"] != "PodScheduled").cloned();
        new["status"]["conditions"] = others.chain([scheduled]).collect();
        Ok(self.store(kind, new))
    }
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => {
            if let Some(object) = to.as_object_mut() {
                object.shift_remove(field);
            }
        }
    }
}

/// Whether no finalizer holds the object.
fn is_released(object: &Value) -> bool {
    let is_empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    is_empty(&object["metadata"]["finalizers"]) && is_empty(&object["spec"]["finalizers"])
}
