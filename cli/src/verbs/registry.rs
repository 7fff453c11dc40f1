//! What `push`, `pull` and `inspect` need to know of a registry.

use super::ClusterArgs;
use anyhow::{Context as _, Result};
use clap::Args;
use coracle_objects::registry_auth::Keyring;
use coracle_sdk::{
    Credentials,
    package::{docker, place::has_host, registry::RegistryOptions},
};
use std::{fs, path::PathBuf};

/// How another registry than the cluster's is reached. Credentials for it are those of Docker's config.json.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Speak HTTP without TLS to another registry than the cluster's
    #[arg(long, conflicts_with = "ca")]
    plain_http: bool,
    /// PEM file of the authorities to trust for another registry, instead of this machine's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl RegistryArgs {
    /// The cluster's credentials, where a name needs or may need them, and how to reach others.
    pub(super) fn open(&self, cluster: &ClusterArgs, name: &str) -> Result<(Option<Credentials>, RegistryOptions)> {
        let options = |keyring| -> Result<RegistryOptions> {
            let read =
                |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
            Ok(RegistryOptions {
                plain_http: self.plain_http,
                ca_pem: self.ca.as_ref().map(read).transpose()?,
                keyring,
            })
        };
        if has_host(name) {
            // The host may be the cluster's, if there is one.
            return Ok((cluster.credentials().ok(), options(docker::keyring()?)?));
        }
        Ok((Some(cluster.credentials()?), options(Keyring::default())?))
    }
}
