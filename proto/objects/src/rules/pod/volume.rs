//! Volumes, and where containers mount them.

use super::{
    super::{
        Causes, Path,
        access::{given, list, text},
    },
    reference,
};
use crate::{names::Spelling, quantity::Quantity};
use serde_json::Value;
use std::collections::HashSet;

/// Volume sources that nodes provide.
const SUPPORTED_SOURCES: [&str; 5] = ["configMap", "downwardAPI", "emptyDir", "projected", "secret"];

/// What a projected volume may combine.
const SUPPORTED_PROJECTIONS: [&str; 3] = ["configMap", "downwardAPI", "secret"];

/// Checks `volumes`; the answer is the names that may be mounted.
pub(super) fn check<'a>(volumes: &'a [Value], path: &Path, causes: &mut Causes) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        if causes.is_full() {
            break;
        }
        let (path, name, before) = (path.index(index), text(volume, "name"), causes.len());
        check_source(volume, &path, causes);
        causes.required_spelled(&path.child("name"), name, Spelling::DnsLabel);
        if names.contains(name) {
            causes.duplicate(&path.child("name"), name);
        }
        if causes.len() == before {
            names.insert(name);
        }
    }
    names
}

fn check_source(volume: &Value, path: &Path, causes: &mut Causes) {
    let mut sources = 0_usize;
    for (field, source) in volume.as_object().into_iter().flatten() {
        if field == "name" || source.is_null() {
            continue;
        }
        sources += 1;
        let path = path.child(field);
        if sources > 1 {
            causes.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        match field.as_str() {
            "emptyDir" => check_empty_dir(source, &path, causes),
            "secret" => check_files(source, "secretName", &path, causes),
            "configMap" => check_files(source, "name", &path, causes),
            "downwardAPI" => check_downward(source, &path, causes),
            "projected" => check_projected(source, &path, causes),
            _ => {
                let detail = format!("not supported; supported volume types: {}", SUPPORTED_SOURCES.join(", "));
                causes.forbidden(&path, &detail);
            }
        }
    }
    if sources == 0 {
        causes.required(path, "must specify a volume type");
    }
}

fn check_empty_dir(source: &Value, path: &Path, causes: &mut Causes) {
    if let Some(limit) = given(source, "sizeLimit")
        && Quantity::from_value(limit).map_or(true, Quantity::is_negative)
    {
        causes.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
    let medium = text(source, "medium");
    if !matches!(medium, "" | "Memory") {
        causes.not_supported(&path.child("medium"), medium, &["", "Memory"]);
    }
}

/// A config map or secret as files; `name_field` says which.
fn check_files(source: &Value, name_field: &str, path: &Path, causes: &mut Causes) {
    if text(source, name_field).is_empty() {
        causes.required(&path.child(name_field), "");
    }
    check_mode(source, "defaultMode", path, causes);
    check_items(list(source, "items"), &path.child("items"), causes);
}

fn check_projected(source: &Value, path: &Path, causes: &mut Causes) {
    check_mode(source, "defaultMode", path, causes);
    for (index, projection) in list(source, "sources").iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let path = path.child("sources").index(index);
        let mut given_count = 0;
        for (field, source) in projection.as_object().into_iter().flatten().filter(|(_, source)| !source.is_null()) {
            given_count += 1;
            let path = path.child(field);
            if given_count > 1 {
                causes.forbidden(&path, "may not specify more than 1 volume type per source");
                continue;
            }
            match field.as_str() {
                "secret" | "configMap" => check_files(source, "name", &path, causes),
                "downwardAPI" => check_downward(source, &path, causes),
                _ => {
                    let detail = format!("not supported; supported sources: {}", SUPPORTED_PROJECTIONS.join(", "));
                    causes.forbidden(&path, &detail);
                }
            }
        }
        if given_count == 0 {
            causes.required(&path, "must specify one of the source types");
        }
    }
}

/// `volumeMounts` of a container.
pub(super) fn check_mounts(mounts: &[Value], volumes: &HashSet<&str>, path: &Path, causes: &mut Causes) {
    let mut mount_points = HashSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let (item, name, target) = (path.index(index), text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            causes.required(&item.child("name"), "");
        }
        if !volumes.contains(name) {
            causes.not_found(&item.child("name"), name);
        }
        if target.is_empty() {
            causes.required(&item.child("mountPath"), "");
        }
        if !mount_points.insert(target) {
            causes.invalid(&item.child("mountPath"), target, "must be unique");
        }
        for field in ["subPath", "subPathExpr"] {
            if !text(mount, field).is_empty() {
                check_local_path(text(mount, field), &path.child(field), causes);
            }
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            causes.invalid(&item.child("subPathExpr"), text(mount, "subPathExpr"), detail);
        }
        if text(mount, "mountPropagation") == "Bidirectional" {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            causes.forbidden(&path.child("mountPropagation"), detail);
        }
    }
}

/// Items of a config map, secret or downward volume have paths that stay inside it.
fn check_items(items: &[Value], path: &Path, causes: &mut Causes) {
    for (index, item) in items.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let path = path.index(index);
        if text(item, "key").is_empty() {
            causes.required(&path.child("key"), "");
        }
        check_item_path(item, &path, causes);
    }
}

/// `path` and `mode` of one item.
fn check_item_path(item: &Value, path: &Path, causes: &mut Causes) {
    let target = text(item, "path");
    if target.is_empty() {
        causes.required(&path.child("path"), "");
    } else {
        check_local_path(target, &path.child("path"), causes);
        if target.starts_with("..") && !target.starts_with("../") && target != ".." {
            causes.invalid(&path.child("path"), target, "must not start with '..'");
        }
    }
    check_mode(item, "mode", path, causes);
}

/// A file mode of at most 0777.
fn check_mode(owner: &Value, field: &str, path: &Path, causes: &mut Causes) {
    if let Some(mode) = owner[field].as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
        causes.invalid(&path.child(field), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// A relative path that does not climb out.
fn check_local_path(target: &str, path: &Path, causes: &mut Causes) {
    if target.starts_with('/') {
        causes.invalid(path, target, "must be a relative path");
    }
    check_no_backsteps(target, path, causes);
}

/// A path that does not climb.
fn check_no_backsteps(target: &str, path: &Path, causes: &mut Causes) {
    if target.split(['/', '\\']).any(|part| part == "..") {
        causes.invalid(path, target, "must not contain '..'");
    }
}

/// Sources of a downward volume.
fn check_downward(source: &Value, path: &Path, causes: &mut Causes) {
    check_mode(source, "defaultMode", path, causes);
    for (index, item) in list(source, "items").iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let path = path.child("items").index(index);
        check_item_path(item, &path, causes);
        match (given(item, "fieldRef"), given(item, "resourceFieldRef")) {
            (Some(reference), None) => {
                reference::check_field(reference, &path.child("fieldRef"), &reference::FILE_FIELDS, causes);
            }
            (None, Some(reference)) => {
                reference::check_resource(reference, &path.child("resourceFieldRef"), true, causes);
            }
            (None, None) => causes.required(&path, "one of fieldRef and resourceFieldRef is required"),
            (Some(_), Some(_)) => {
                causes.invalid(&path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
    }
}
