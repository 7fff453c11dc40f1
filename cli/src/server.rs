//! `coracle server`: the control plane alone.

use crate::{banner, patience::PatienceOptions};
use anyhow::Result;
use clap::Args;
use coracle_node::{Signals, absolute};
use coracle_objects::names::dns_subdomain;
use coracle_server::ServerConfig;
use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The options of `coracle server`.
#[derive(Debug, Args)]
pub(crate) struct Server {
    /// Directory for everything the server keeps; made when it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Address of the API; with port 0 the system picks a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6443", value_parser = address)]
    listen: SocketAddr,
    /// Name among the servers
    #[arg(long, default_value = "server-1")]
    name: String,
    /// Make credentials for a node, in DIR/nodes/NAME; may be repeated
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    #[command(flatten)]
    patience: PatienceOptions,
    #[command(flatten)]
    identity: IdentityOptions,
}

/// What the server and its nodes prove themselves with.
#[derive(Debug, Args)]
pub(crate) struct IdentityOptions {
    /// Name or address under which others reach the server, for its certificate; may be repeated
    #[arg(long = "tls-name", value_name = "NAME", value_parser = tls_name)]
    names: Vec<String>,
    /// How long certificates of nodes last; nodes renew them when most of that is over
    #[arg(long, value_name = "SECONDS", default_value_t = coracle_server::CERTIFICATE_LIFETIME.as_secs(), value_parser = clap::value_parser!(u64).range(10..=315_360_000))]
    certificate_lifetime: u64,
}

impl IdentityOptions {
    /// The configuration with these options.
    pub(crate) fn apply(&self, config: ServerConfig) -> ServerConfig {
        let certificate_lifetime = Duration::from_secs(self.certificate_lifetime);
        ServerConfig { names: self.names.clone(), certificate_lifetime, ..config }
    }
}

impl Server {
    /// Runs until a signal asks it to stop.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let stop = CancellationToken::new();
        let Self { data_dir, listen, name, nodes, patience, identity } = self;
        let patience = patience.patience();
        let data_dir = absolute(&data_dir)?;
        let config =
            ServerConfig { name, nodes: nodes.clone(), patience, ..ServerConfig::new(data_dir.clone(), listen) };
        let config = identity.apply(config);
        let server = coracle_server::start(config, stop.clone()).await?;
        banner::print(&banner::server(coracle_server::reachable(server.address), &data_dir, &nodes));
        let mut stopped = pin!(server.stopped());
        tokio::select! {
            // Only a failure ends a server that nobody has asked to stop.
            outcome = stopped.as_mut() => return outcome.map(|()| ExitCode::FAILURE).map_err(Into::into),
            () = signals.next() => {}
        }
        stop.cancel();
        signals.or_exit(stopped).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What a certificate can be for: a name in DNS, also `*.NAME`, or an address.
fn tls_name(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    if text.parse::<IpAddr>().is_ok() || dns_subdomain(lower.strip_prefix("*.").unwrap_or(&lower)).is_ok() {
        return Ok(text.to_owned());
    }
    Err("must be a name in DNS or an IP address, for example coracle.example.com".to_owned())
}

/// `HOST:PORT`; of a name's addresses an IPv4 one is preferred.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = "must be HOST:PORT, for example 127.0.0.1:6443";
    if text.rsplit_once(':').is_none_or(|(host, _)| host.is_empty()) {
        return Err(wrong.to_owned());
    }
    let addresses: Vec<SocketAddr> = text.to_socket_addrs().map_err(|error| format!("{wrong}: {error}"))?.collect();
    let preferred = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    preferred.copied().ok_or_else(|| wrong.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_for_names_and_addresses() {
        for good in ["coracle.example.com", "localhost", "*.example.com", "Host-1.local", "192.0.2.1", "fd00::1"] {
            assert_eq!(tls_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "bad name", "a..b", "-a", "*.", "*", "a.*", "[fd00::1]", "https://a.example", "a:6443"] {
            assert!(tls_name(bad).is_err(), "{bad}");
        }
    }
}
