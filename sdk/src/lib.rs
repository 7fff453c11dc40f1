//! owner: see plan
