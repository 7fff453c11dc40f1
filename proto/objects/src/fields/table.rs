//! The table itself: static data derived at build time (see `build/`), and how to look things up in it.

include!(concat!(env!("OUT_DIR"), "/field_table.rs"));

/// A named type, e.g. `io.k8s.api.core.v1.Container`.
#[derive(Debug)]
pub struct Type {
    /// The name under which `OpenAPI` documents define it.
    pub name: &'static str,
    /// Upstream's explanation.
    pub description: &'static str,
    /// Whether server-side apply replaces it as a whole.
    pub atomic: bool,
    /// What a value looks like; never [`Shape::Reference`].
    pub shape: Shape,
}

/// One field of an object.
#[derive(Debug)]
pub struct Field {
    /// As in JSON.
    pub name: &'static str,
    /// Upstream's explanation.
    pub description: &'static str,
    /// Whether the schema demands it. Rules, not the field table, refuse objects without it.
    pub required: bool,
    /// Whether server-side apply replaces this map as a whole.
    pub atomic: bool,
    /// What a value looks like.
    pub shape: Shape,
    /// For lists: how they merge.
    pub list: ListRules,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Any JSON.
    Any,
    /// `true` or `false`.
    Boolean,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// Any number.
    Number,
    /// Text.
    String,
    /// Base64 text.
    Bytes,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// An amount such as `100m`, as text or number.
    Quantity,
    /// A whole number of 32 bits, or text.
    IntOrString,
    /// Fields, sorted by name.
    Object(&'static [Field]),
    /// Free keys, values of one shape.
    Map(&'static Shape),
    /// Elements of one shape.
    List(&'static Shape),
    /// A named type: its place in [`types`].
    Reference(usize),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// Nothing is said: as atomic.
    Unspecified,
    /// Replaced as a whole.
    Atomic,
    /// Plain values, each at most once.
    Set,
    /// Objects that some of their fields name.
    Map,
}

/// `x-kubernetes-patch-strategy` and `-merge-key`: what a strategic merge patch does with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchStrategy {
    /// The patch's list takes the place of the old one.
    Replace,
    /// Objects are matched by the value of this field.
    MergeByKey(&'static str),
    /// Plain values are added.
    MergeValues,
}

/// How a list merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListRules {
    /// For server-side apply.
    pub list_type: ListType,
    /// The fields that name an element of a [`ListType::Map`].
    pub map_keys: &'static [&'static str],
    /// For strategic merge patches.
    pub patch: PatchStrategy,
    /// Whether an element of a patch may say `$retainKeys`.
    pub retain_keys: bool,
}

impl ListRules {
    /// For lists about which nothing is said, and for what is no list.
    pub const UNSPECIFIED: Self =
        Self { list_type: ListType::Unspecified, map_keys: &[], patch: PatchStrategy::Replace, retain_keys: false };
}

/// Every type, sorted by name.
#[must_use]
pub fn types() -> &'static [Type] {
    &TYPES
}

/// The type called `name`, e.g. `io.k8s.api.core.v1.Pod`.
#[must_use]
pub fn type_named(name: &str) -> Option<&'static Type> {
    TYPES.binary_search_by(|row| row.name.cmp(name)).ok().map(|place| &TYPES[place])
}

/// The name that upstream gives the type of a kind: `io.k8s.api.core.v1.Pod`, `io.k8s.api.discovery.v1.EndpointSlice`.
#[must_use]
pub fn type_name(group: &str, version: &str, kind: &str) -> String {
    let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or_default() };
    format!("io.k8s.api.{package}.{version}.{kind}")
}

impl Shape {
    /// The shape itself, or that of the type referred to.
    #[must_use]
    pub fn resolved(&'static self) -> &'static Self {
        match self {
            Self::Reference(place) => TYPES.get(*place).map_or(self, |row| &row.shape),
            other => other,
        }
    }

    /// The fields, if this is an object with fields.
    #[must_use]
    pub fn fields(&'static self) -> &'static [Field] {
        match self.resolved() {
            Self::Object(fields) => fields,
            _ => &[],
        }
    }

    /// The field called `name`, if this is an object that has it.
    #[must_use]
    pub fn field(&'static self, name: &str) -> Option<&'static Field> {
        let fields = self.fields();
        fields.binary_search_by(|field| field.name.cmp(name)).ok().map(|place| &fields[place])
    }

    /// Shape and list rules of what stands under `name`: a field, or a value of a map. `None` where the table knows
    /// nothing: free JSON, or a field that pruning will drop.
    #[must_use]
    pub fn child(&'static self, name: &str) -> Option<(&'static Self, ListRules)> {
        match self.resolved() {
            Self::Map(inner) => Some((inner, ListRules::UNSPECIFIED)),
            object => object.field(name).map(|field| (&field.shape, field.list)),
        }
    }

    /// Shape of the elements, if this is a list.
    #[must_use]
    pub fn element(&'static self) -> Option<&'static Self> {
        match self.resolved() {
            Self::List(element) => Some(element),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;

    #[test]
    fn every_kind_of_the_catalogue_has_its_type() {
        for kind in catalogue::all() {
            let name = type_name(kind.group, kind.version, kind.kind);
            let row = type_named(&name).unwrap_or_else(|| panic!("{name} is missing: add it to build/roots.rs"));
            assert!(row.shape.field("metadata").is_some(), "{name}");
            assert!(!row.description.is_empty(), "{name}");
        }
    }

    #[test]
    fn references_end_in_a_shape_and_names_are_sorted() {
        assert!(types().is_sorted_by(|one, next| one.name < next.name));
        for row in types() {
            assert!(!matches!(row.shape, Shape::Reference(_)), "{}", row.name);
            assert!(row.shape.fields().is_sorted_by(|one, next| one.name < next.name), "{}", row.name);
            for field in row.shape.fields() {
                assert!(!matches!(field.shape.resolved(), Shape::Reference(_)), "{}.{}", row.name, field.name);
            }
        }
    }

    /// A list of objects of which nobody said how it merges is one that `build/lists.rs` forgot.
    #[test]
    fn every_list_has_rules() {
        let silent: Vec<String> = types()
            .iter()
            .flat_map(|row| row.shape.fields().iter().map(move |field| (row, field)))
            .filter(|(_, field)| matches!(field.shape, Shape::List(_)))
            .filter(|(_, field)| field.list.list_type == ListType::Unspecified)
            .map(|(row, field)| format!("{}.{}", row.name.trim_start_matches("io.k8s."), field.name))
            .collect();
        assert_eq!(silent, Vec::<String>::new());
    }

    #[test]
    fn merge_keys_are_fields_of_the_elements() {
        for row in types() {
            for field in row.shape.fields() {
                let Shape::List(element) = field.shape else { continue };
                let place = format!("{}.{}", row.name, field.name);
                match field.list.patch {
                    PatchStrategy::MergeByKey(key) => assert!(element.field(key).is_some(), "{place}: {key}"),
                    PatchStrategy::MergeValues => assert!(matches!(element, Shape::String), "{place}"),
                    PatchStrategy::Replace => {}
                }
                for key in field.list.map_keys {
                    assert!(element.field(key).is_some(), "{place}: {key}");
                }
            }
        }
    }
}
