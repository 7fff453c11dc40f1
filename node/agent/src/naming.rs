//! What the operator of a node may call it, and which labels give it: judged here, before a server is asked, by the rules that
//! servers go by. Values only.

use coracle_objects::{names, nodes};

/// Whether `text` may be a node's name.
///
/// # Errors
/// The rule that is broken.
pub fn check_node_name(text: &str) -> Result<(), String> {
    names::dns_subdomain(text)
}

/// Key and value of a label, `KEY=VALUE`, that a node may give itself.
///
/// # Errors
/// The rule that is broken, and who may give the label where the node may not.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    names::label_key(key).map_err(|rule| format!("key \"{key}\": {rule}"))?;
    names::label_value(value).map_err(|rule| format!("value \"{value}\": {rule}"))?;
    if nodes::OWN_LABELS.contains(&key) {
        return Err(format!("{key} is what the node itself says of its machine"));
    }
    if nodes::is_reserved_label(key) {
        let allowed = nodes::CHOSEN_LABELS.join(", ");
        return Err(format!(
            "of the labels of kubernetes.io and k8s.io a node may give itself {allowed}; set it with: kubectl label node NAME {text}"
        ));
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gives_itself_labels_that_servers_take() {
        for (text, key, value) in [
            ("disk=ssd", "disk", "ssd"),
            ("example.com/rack=", "example.com/rack", ""),
            ("topology.kubernetes.io/zone=lab", "topology.kubernetes.io/zone", "lab"),
        ] {
            assert_eq!(label(text), Ok((key.to_owned(), value.to_owned())));
        }
        for (text, says) in [
            ("disk", "must be KEY=VALUE"),
            ("bad key=x", "key \"bad key\""),
            ("=x", "key \"\""),
            ("disk=x y", "value \"x y\""),
            ("node-role.kubernetes.io/edge=", "kubectl label node NAME node-role.kubernetes.io/edge="),
            ("a.k8s.io/b=c", "topology.kubernetes.io/zone"),
            ("kubernetes.io/hostname=zz", "what the node itself says"),
        ] {
            let refused = label(text).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }

    #[test]
    fn a_node_has_a_name_that_servers_take() {
        for good in ["edge", "a.example", "7"] {
            assert_eq!(check_node_name(good), Ok(()));
        }
        for bad in ["", "Bad_Name", "-a", "a..b", "a/b"] {
            assert!(check_node_name(bad).is_err_and(|rule| rule.contains("lower case")), "{bad}");
        }
    }
}
