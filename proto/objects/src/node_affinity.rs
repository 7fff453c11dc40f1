//! Which nodes a pod may run on (`nodeSelector` and the required part of `nodeAffinity`) and which it would rather have (the
//! preferred part), in a form that is quick to match. Pure. The scheduler chooses by it, and each node checks by it what it is given.

use serde_json::Value;

/// Labels ordered by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Vec<(Box<str>, Box<str>)>);

impl Labels {
    /// From a JSON map or null.
    #[must_use]
    pub fn from_map(map: &Value) -> Self {
        let pairs = map.as_object().into_iter().flatten();
        let mut labels: Vec<_> =
            pairs.map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into())).collect();
        labels.sort();
        Self(labels)
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(other, _)| (**other).cmp(key)).ok()?;
        Some(&self.0[place].1)
    }

    /// Key and value pairs in the order of the keys.
    #[must_use]
    pub fn pairs(&self) -> &[(Box<str>, Box<str>)] {
        &self.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    /// None that we know: never matches.
    Unknown,
}

/// One condition on a label, or on the node's name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expression {
    key: Box<str>,
    operator: Operator,
    values: Vec<Box<str>>,
}

impl Expression {
    fn parse(expression: &Value) -> Self {
        let operator = match expression["operator"].as_str().unwrap_or_default() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => Operator::Unknown,
        };
        let values = expression["values"].as_array().into_iter().flatten();
        let values = values.map(|value| value.as_str().unwrap_or_default().into()).collect();
        Self { key: expression["key"].as_str().unwrap_or_default().into(), operator, values }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let is_listed = |value: &str| self.values.iter().any(|one| **one == *value);
        let integers = || Some((value?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::In => value.is_some_and(is_listed),
            Operator::NotIn => !value.is_some_and(is_listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => integers().is_some_and(|(have, wanted)| have > wanted),
            Operator::Lt => integers().is_some_and(|(have, wanted)| have < wanted),
            Operator::Unknown => false,
        }
    }
}

/// All of a term's conditions must hold; a term without any never matches.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    labels: Vec<Expression>,
    fields: Vec<Expression>,
}

impl Term {
    fn parse(term: &Value) -> Self {
        let expressions = |field: &str| term[field].as_array().into_iter().flatten().map(Expression::parse).collect();
        Self { labels: expressions("matchExpressions"), fields: expressions("matchFields") }
    }

    fn matches(&self, name: &str, labels: &Labels) -> bool {
        let field = |key: &str| (key == "metadata.name").then_some(name);
        let is_empty = self.labels.is_empty() && self.fields.is_empty();
        !is_empty
            && self.labels.iter().all(|one| one.matches(labels.get(&one.key)))
            && self.fields.iter().all(|one| one.matches(field(&one.key)))
    }
}

/// Which nodes a pod wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeRequirements {
    selector: Labels,
    /// One of them must match; `None`: no affinity is required.
    terms: Option<Vec<Term>>,
}

impl NodeRequirements {
    /// Reads a pod's `spec`.
    #[must_use]
    pub fn of_pod(spec: &Value) -> Self {
        let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let terms = || required["nodeSelectorTerms"].as_array().into_iter().flatten().map(Term::parse).collect();
        Self { selector: Labels::from_map(&spec["nodeSelector"]), terms: required.is_object().then(terms) }
    }

    /// Whether a node is one of them.
    #[must_use]
    pub fn match_node(&self, name: &str, labels: &Labels) -> bool {
        self.selector.pairs().iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }
}

/// Which nodes a pod would rather have, of those that it may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodePreferences(Vec<(i64, Term)>);

impl NodePreferences {
    /// Reads a pod's `spec`.
    #[must_use]
    pub fn of_pod(spec: &Value) -> Self {
        let preferred = &spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
        let terms = preferred.as_array().into_iter().flatten();
        Self(terms.map(|one| (one["weight"].as_i64().unwrap_or(0), Term::parse(&one["preference"]))).collect())
    }

    /// The sum of the weights of what the node matches.
    #[must_use]
    pub fn weight(&self, name: &str, labels: &Labels) -> i64 {
        let matching = self.0.iter().filter(|(_, term)| term.matches(name, labels));
        matching.fold(0, |sum, (weight, _)| sum.saturating_add(*weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn affinity(terms: &Value) -> Value {
        let required = json!({"nodeSelectorTerms": terms});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({"key": key, "operator": operator, "values": values})
    }

    #[test]
    fn requirements_match_as_documented() {
        let labels = Labels::from_map(&json!({"zone": "b", "cores": "8", "arch": ""}));
        let term = |expression: Value| affinity(&json!([{"matchExpressions": [expression]}]));
        let table = [
            (json!({}), true),
            (json!({"nodeSelector": {"zone": "b", "cores": "8"}}), true),
            (json!({"nodeSelector": {"zone": "b", "cores": "9"}}), false),
            (json!({"nodeSelector": {"missing": ""}}), false),
            (json!({"nodeSelector": {"arch": ""}}), true),
            (term(expression("zone", "In", &["a", "b"])), true),
            (term(expression("zone", "NotIn", &["a", "b"])), false),
            (term(expression("missing", "NotIn", &["a"])), true),
            (term(expression("arch", "Exists", &[])), true),
            (term(expression("missing", "DoesNotExist", &[])), true),
            (term(expression("cores", "Gt", &["7"])), true),
            (term(expression("cores", "Lt", &["8"])), false),
            (term(expression("zone", "Gt", &["7"])), false),
            (term(expression("zone", "Near", &["b"])), false),
            (affinity(&json!([])), false),
            (affinity(&json!([{}])), false),
            (affinity(&json!([{}, {"matchExpressions": [expression("zone", "Exists", &[])]}])), true),
            (affinity(&json!([{"matchFields": [expression("metadata.name", "In", &["n1"])]}])), true),
            (affinity(&json!([{"matchFields": [expression("metadata.name", "NotIn", &["n1"])]}])), false),
            (
                affinity(
                    &json!([{"matchExpressions": [expression("zone", "Exists", &[]), expression("x", "Exists", &[])]}]),
                ),
                false,
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(NodeRequirements::of_pod(&spec).match_node("n1", &labels), expected, "{spec}");
        }
    }

    #[test]
    fn preferences_add_their_weights_up() {
        let preferred = |key: &str, weight: i64| json!({"weight": weight, "preference": {"matchExpressions": [expression(key, "Exists", &[])]}});
        let empty = json!({"weight": 50, "preference": {}});
        let terms = json!([preferred("zone", 10), preferred("gpu", 20), preferred("arch", 3), empty]);
        let spec = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}});
        let labels = Labels::from_map(&json!({"zone": "b", "arch": ""}));
        assert_eq!(NodePreferences::of_pod(&spec).weight("n", &labels), 13);
        assert_eq!(NodePreferences::of_pod(&json!({})).weight("n", &labels), 0);
    }
}
