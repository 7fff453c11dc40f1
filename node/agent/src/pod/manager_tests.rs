//! Pods coming and going on a node, with a link that is a fake.
