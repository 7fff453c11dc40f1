//! Environment variables.

use super::{
    super::{
        Causes, Path,
        access::{given, text},
    },
    reference::{self, ENV_FIELDS},
};
use crate::names::Spelling;
use serde_json::Value;

const SOURCES: [&str; 4] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];

/// `env` of a container.
pub(super) fn check(variables: &[Value], path: &Path, causes: &mut Causes) {
    for (index, variable) in variables.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let path = path.index(index);
        causes.required_spelled(&path.child("name"), text(variable, "name"), Spelling::EnvVarName);
        if let Some(source) = given(variable, "valueFrom") {
            check_source(variable, source, &path.child("valueFrom"), causes);
        }
    }
}

fn check_source(variable: &Value, source: &Value, path: &Path, causes: &mut Causes) {
    if let Some(reference) = given(source, "fieldRef") {
        reference::check_field(reference, &path.child("fieldRef"), &ENV_FIELDS, causes);
    }
    if let Some(reference) = given(source, "resourceFieldRef") {
        reference::check_resource(reference, &path.child("resourceFieldRef"), false, causes);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(reference) = given(source, field) {
            let path = path.child(field);
            causes.spelled(&path.child("name"), text(reference, "name"), Spelling::DnsSubdomain);
            causes.required_spelled(&path.child("key"), text(reference, "key"), Spelling::ConfigKey);
        }
    }
    match SOURCES.iter().filter(|field| given(source, field).is_some()).count() {
        0 => {
            let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            causes.invalid(path, "", detail);
        }
        _ if !text(variable, "value").is_empty() => {
            causes.invalid(path, "", "may not be specified when `value` is not empty");
        }
        1 => {}
        _ => causes.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

/// `envFrom` of a container.
pub(super) fn check_from(sources: &[Value], path: &Path, causes: &mut Causes) {
    for (index, source) in sources.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let item = path.index(index);
        if !text(source, "prefix").is_empty() {
            causes.spelled(&item.child("prefix"), text(source, "prefix"), Spelling::EnvVarName);
        }
        let mut named = 0;
        for field in ["configMapRef", "secretRef"] {
            if let Some(reference) = given(source, field) {
                named += 1;
                let path = item.child(field).child("name");
                causes.required_spelled(&path, text(reference, "name"), Spelling::DnsSubdomain);
            }
        }
        match named {
            0 => causes.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => causes.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}
