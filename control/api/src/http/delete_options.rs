//! `DeleteOptions` from the body and the query of a deletion. What cannot be understood is refused: a dry run or an
//! orphaning that is ignored deletes what was meant to stay.

use super::query::Query;
use crate::door::DeleteOptions;
use coracle_objects::{ApiError, Cause};
use serde_json::Value;

const POLICIES: [&str; 3] = ["Background", "Foreground", "Orphan"];

/// The conditions and the manner of a deletion; `body` is null when none was sent.
///
/// # Errors
/// 422 that names the option, 400 for a query that cannot be read.
pub(super) fn read(body: &Value, query: &Query) -> Result<DeleteOptions, ApiError> {
    let mut causes = Vec::new();
    let runs = body["dryRun"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(other) = runs.iter().find(|run| *run != "All") {
        causes.push(Cause::not_supported("dryRun", other, &["All"]));
    }
    let policy = match body["propagationPolicy"].as_str() {
        None | Some("") => query.text("propagationPolicy"),
        Some(policy) => policy,
    };
    let orphans = match body["orphanDependents"].as_bool() {
        None if query.text("orphanDependents").is_empty() => None,
        None => Some(query.flag("orphanDependents")?),
        some => some,
    };
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        causes.push(Cause::not_supported("propagationPolicy", &Value::from(policy), &POLICIES));
    } else if !policy.is_empty() && orphans.is_some() {
        let detail = "orphanDependents and propagationPolicy cannot be both set";
        causes.push(Cause::invalid("propagationPolicy", &Value::from(policy), detail));
    }
    if !causes.is_empty() {
        return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", causes));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(DeleteOptions {
        grace_period_seconds: body["gracePeriodSeconds"].as_i64().or(query.number("gracePeriodSeconds")?),
        uid: text(&body["preconditions"]["uid"]),
        resource_version: text(&body["preconditions"]["resourceVersion"]),
        dry_run: !runs.is_empty() || query.dry_run()?,
        orphans: policy == "Orphan" || orphans == Some(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_from(body: &Value, query: &str) -> Result<DeleteOptions, ApiError> {
        read(body, &Query::parse(&format!("/x?{query}").parse().unwrap()).unwrap())
    }

    #[test]
    fn options_are_read_from_body_and_query() {
        let all = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
        let orphans = DeleteOptions { orphans: true, ..DeleteOptions::default() };
        let five = DeleteOptions { grace_period_seconds: Some(5), ..DeleteOptions::default() };
        let cases = [
            (json!(null), "", DeleteOptions::default()),
            (json!({"dryRun": []}), "", DeleteOptions::default()),
            (json!({"dryRun": ["All"]}), "", all.clone()),
            (json!(null), "dryRun=All", all),
            (json!({"propagationPolicy": "Foreground"}), "", DeleteOptions::default()),
            (json!({"propagationPolicy": "Orphan"}), "", orphans.clone()),
            (json!({"orphanDependents": true}), "", orphans.clone()),
            (json!({"orphanDependents": false}), "", DeleteOptions::default()),
            (json!(null), "propagationPolicy=Orphan", orphans.clone()),
            (json!(null), "orphanDependents=true", orphans),
            (json!({"gracePeriodSeconds": 5}), "gracePeriodSeconds=7", five.clone()),
            (json!(null), "gracePeriodSeconds=5", five),
        ];
        for (body, query, expected) in cases {
            assert_eq!(read_from(&body, query).unwrap(), expected, "{body} {query}");
        }
    }

    #[test]
    fn what_is_not_understood_deletes_nothing() {
        let cases = [
            (json!({"dryRun": ["Some"]}), ""),
            (json!({"dryRun": ["All", "Some"]}), ""),
            (json!(null), "dryRun=Some"),
            (json!({"propagationPolicy": "Sideways"}), ""),
            (json!(null), "propagationPolicy=Sideways"),
            (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), ""),
        ];
        for (body, query) in cases {
            assert_eq!(read_from(&body, query).unwrap_err().code(), 422, "{body} {query}");
        }
    }
}
