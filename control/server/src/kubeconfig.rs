//! The kubeconfig that `kubectl` and our own commands read.

use crate::pki::Issued;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Renders it. The token is the same user's: registry clients know no client certificates.
pub(crate) fn render(server: SocketAddr, ca_pem: &str, admin: &Issued, token: &str) -> String {
    let server = reachable(server);
    let (ca, certificate, key) =
        (STANDARD.encode(ca_pem), STANDARD.encode(&admin.certificate_pem), STANDARD.encode(&admin.key_pem));
    format!(
        "apiVersion: v1
kind: Config
current-context: coracle
contexts:
- name: coracle
  context:
    cluster: coracle
    user: admin
clusters:
- name: coracle
  cluster:
    server: https://{server}
    certificate-authority-data: {ca}
users:
- name: admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
    token: {token}
"
    )
}

/// Where a client on this machine finds a server that listens on `address`, which may be "all addresses".
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_reached_through_loopback() {
        let cases = [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:2", "[::1]:2"),
            ("127.0.0.9:3", "127.0.0.9:3"),
            ("10.1.2.3:4", "10.1.2.3:4"),
        ];
        for (listen, expected) in cases {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), expected);
        }
        let admin = Issued { certificate_pem: "C".to_owned(), key_pem: "K".to_owned() };
        let text = render("0.0.0.0:6443".parse().unwrap(), "CA", &admin, "t");
        assert!(text.contains("server: https://127.0.0.1:6443\n"), "{text}");
        assert!(text.contains("certificate-authority-data: Q0E=\n"), "{text}");
    }
}
