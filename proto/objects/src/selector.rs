//! Label selectors (equality and set-based) and field selectors.

mod field;
mod query;

use crate::{ApiError, names::Spelling};
use serde_json::Value;
use std::fmt;

pub use field::FieldSelector;

/// How a requirement relates a label to its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The label is there and its value is one of these.
    In,
    /// The label is not there, or its value is none of these.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// The label is an integer greater than the one value.
    GreaterThan,
    /// The label is an integer less than the one value.
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    /// A checked requirement; the error is Kubernetes' text.
    fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        let quoted = |text: &str| Value::from(text).to_string();
        if let Some(problem) = first_problem(Spelling::QualifiedName, key) {
            return Err(format!("key: Invalid value: {}: {problem}", quoted(key)));
        }
        let comparing = matches!(operator, Operator::GreaterThan | Operator::LessThan);
        for (index, value) in values.iter().enumerate() {
            if comparing && value.parse::<i64>().is_err() {
                let text = "for 'Gt', 'Lt' operators, the value must be an integer";
                return Err(format!("values[{index}]: Invalid value: {}: {text}", quoted(value)));
            }
            if let Some(problem) = first_problem(Spelling::LabelValue, value) {
                return Err(format!("values[{index}][{key}]: Invalid value: {}: {problem}", quoted(value)));
            }
        }
        values.sort();
        values.dedup();
        Ok(Self { key: key.to_owned(), operator, values })
    }

    /// The label that it speaks of.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    fn has(&self, value: &str) -> bool {
        self.values.binary_search_by(|one| one.as_str().cmp(value)).is_ok()
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let integers = || {
            let wanted = self.values.first()?.parse::<i64>().ok()?;
            Some((value?.parse::<i64>().ok()?, wanted))
        };
        match self.operator {
            Operator::In => value.is_some_and(|value| self.has(value)),
            Operator::NotIn => value.is_none_or(|value| !self.has(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => integers().is_some_and(|(have, wanted)| have > wanted),
            Operator::LessThan => integers().is_some_and(|(have, wanted)| have < wanted),
        }
    }
}

fn first_problem(spelling: Spelling, text: &str) -> Option<String> {
    let problems = spelling.problems(text);
    if problems.is_empty() { None } else { Some(problems.join("; ")) }
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match (self.operator, self.values.len()) {
            (Operator::In, 1) => write!(formatter, "{key}={values}"),
            (Operator::NotIn, 1) => write!(formatter, "{key}!={values}"),
            (Operator::In, _) => write!(formatter, "{key} in ({values})"),
            (Operator::NotIn, _) => write!(formatter, "{key} notin ({values})"),
            (Operator::Exists, _) => formatter.write_str(key),
            (Operator::DoesNotExist, _) => write!(formatter, "!{key}"),
            (Operator::GreaterThan, _) => write!(formatter, "{key}>{values}"),
            (Operator::LessThan, _) => write!(formatter, "{key}<{values}"),
        }
    }
}

/// A parsed label selector; the empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|one, other| one.key.cmp(&other.key));
        Self { requirements }
    }

    /// The query form: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// 400 that quotes what could not be read.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let requirements = query::parse(text)
            .map_err(|problem| ApiError::bad_request(format!("unable to parse requirement: {problem}")))?;
        Ok(Self::new(requirements))
    }

    /// The object form with `matchLabels` and `matchExpressions`.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn from_object(selector: &Value) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            let requirement = Requirement::new(key, Operator::In, vec![value])
                .map_err(|problem| ApiError::bad_request(format!("matchLabels[{key}]: {problem}")))?;
            requirements.push(requirement);
        }
        for (index, expression) in selector["matchExpressions"].as_array().into_iter().flatten().enumerate() {
            let requirement = expression_requirement(expression)
                .map_err(|problem| ApiError::bad_request(format!("matchExpressions[{index}].{problem}")))?;
            requirements.push(requirement);
        }
        Ok(Self::new(requirements))
    }

    /// The plain map form of a Service's `spec.selector`; an empty map selects nothing there, which is the caller's rule.
    #[must_use]
    pub fn from_map(map: &Value) -> Self {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        };
        Self::new(map.as_object().into_iter().flatten().map(requirement).collect())
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Its requirements, ordered by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether the labels (a JSON map or null) match.
    #[must_use]
    pub fn matches(&self, labels: &Value) -> bool {
        self.requirements.iter().all(|one| one.matches(labels.get(&one.key).and_then(Value::as_str)))
    }
}

impl fmt::Display for LabelSelector {
    /// The query form, normalised: ordered by key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

fn expression_requirement(expression: &Value) -> Result<Requirement, String> {
    let values: Vec<String> = expression["values"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|value| value.as_str().unwrap_or_default().to_owned())
        .collect();
    let operator = match expression["operator"].as_str().unwrap_or_default() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            return Err(format!("operator: Invalid value: {}: not a valid selector operator", Value::from(other)));
        }
    };
    let wants_values = matches!(operator, Operator::In | Operator::NotIn);
    if wants_values && values.is_empty() {
        return Err("values: Required value: must be specified when `operator` is 'In' or 'NotIn'".to_owned());
    }
    if !wants_values && !values.is_empty() {
        return Err("values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'".to_owned());
    }
    Requirement::new(expression["key"].as_str().unwrap_or_default(), operator, values)
}

#[cfg(test)]
mod tests;
