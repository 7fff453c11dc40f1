//! How QUIC is set up between nodes: windows, timers, packet sizes, and the keys by which a node that was started anew tells
//! its peers at once that old connections are gone.

use super::{
    TunnelError,
    identity::Identity,
    limits::{HANDSHAKES_MAX, TunnelLimits},
    paths::{PAYLOAD_BYTES_MAX, is_relayed},
};
use nix::sys::socket::{getsockopt, sockopt};
use quinn::{
    AckFrequencyConfig, ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, MtuDiscoveryConfig,
    ServerConfig, TransportConfig, VarInt,
    crypto::{
        CryptoError, HmacKey,
        rustls::{QuicClientConfig, QuicServerConfig},
    },
};
use rustls::{
    SupportedCipherSuite,
    crypto::{
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        tls13::{Hkdf, OkmBlock},
    },
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

/// What a packet needs there and back, before it was measured.
const ROUND_TRIP_AT_FIRST: Duration = Duration::from_millis(100);
/// Packets that a peer may take before it acknowledges them.
const PACKETS_PER_ACK: u32 = 8;
/// How long it may wait to do so.
const ACK_DELAY: Duration = Duration::from_millis(10);
/// UDP and IP headers, in bytes.
const HEADERS_BYTES: (u16, u16) = (28, 48);
/// Smallest UDP payload that QUIC is possible with, in bytes.
const PAYLOAD_BYTES_MIN: u16 = 1_200;
/// UDP payload that most networks take, in bytes: where the kernel does not say better.
const PAYLOAD_BYTES_USUAL: u16 = 1_452;
/// Datagrams that wait to be sent or read, in bytes; older ones are lost.
const DATAGRAMS_BYTES: usize = 1024 * 1024;
/// Bytes of handshakes that wait to be looked at.
const HANDSHAKES_BYTES: u64 = 1024 * 1024;
/// Bytes of an HMAC with SHA-256.
const HMAC_BYTES: usize = 32;
/// Bytes of a connection id.
const ID_BYTES: usize = 8;

/// An HMAC with SHA-256, from the primitives that TLS has.
struct Hmac([u8; HMAC_BYTES]);

fn hmac(key: &[u8], message: &[u8]) -> Option<[u8; HMAC_BYTES]> {
    let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 else { return None };
    let hkdf: &dyn Hkdf = suite.hkdf_provider;
    hkdf.hmac_sign(&OkmBlock::new(key), message).as_ref().try_into().ok()
}

impl HmacKey for Hmac {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        if let Some(signature) = hmac(&self.0, data) {
            let length = signature_out.len().min(HMAC_BYTES);
            signature_out[..length].copy_from_slice(&signature[..length]);
        }
    }

    fn signature_len(&self) -> usize {
        HMAC_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Not asked for: resets are recognised by whoever receives them, by comparing.
        if hmac(&self.0, data).is_some_and(|own| own[..] == *signature) { Ok(()) } else { Err(CryptoError) }
    }
}

/// Connection ids that say nothing. Packets of connections that are not known are answered, whatever their ids: a node that was
/// started anew knows none of those that it gave before.
#[derive(Debug)]
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; ID_BYTES]>())
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The endpoint of the node with this private key, in every one of its lives: what it says of connections that it does not
/// know, its peers believe.
pub(super) fn endpoint(private_key: &[u8]) -> Result<EndpointConfig, TunnelError> {
    let derive = |what: &[u8]| hmac(what, private_key).ok_or(TunnelError::Cipher);
    let mut config = EndpointConfig::new(Arc::new(Hmac(derive(b"stateless resets of the tunnel")?)));
    config.cid_generator(|| Box::new(RandomIds));
    config.max_udp_payload_size(PAYLOAD_BYTES_MAX).map_err(|_| TunnelError::Cipher)?;
    Ok(config)
}

/// How a connection with somebody at `remote` behaves. Only who dialled keeps it alive.
fn transport(limits: &TunnelLimits, remote: SocketAddr, has_dialled: bool) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(payload_to(remote));
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK)).max_ack_delay(Some(ACK_DELAY));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.streams_per_peer))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .stream_receive_window(VarInt::from_u32(limits.stream_window_bytes))
        .receive_window(VarInt::from_u32(limits.receive_window_bytes()))
        .send_window(limits.send_window_bytes)
        .max_idle_timeout(limits.silence.try_into().ok())
        .keep_alive_interval(has_dialled.then_some(limits.keep_alive))
        .initial_rtt(ROUND_TRIP_AT_FIRST)
        .datagram_receive_buffer_size(Some(DATAGRAMS_BYTES))
        .datagram_send_buffer_size(DATAGRAMS_BYTES)
        .ack_frequency_config(Some(acks))
        .mtu_discovery_config(Some(mtu));
    config
}

/// The longest UDP payload that may get to `remote`, as this machine's kernel knows its own links. Longer ones need not be tried.
fn payload_to(remote: SocketAddr) -> u16 {
    if is_relayed(remote) {
        return PAYLOAD_BYTES_MAX;
    }
    let (any, headers): (IpAddr, u16) = match remote.ip().to_canonical() {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), HEADERS_BYTES.0),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), HEADERS_BYTES.1),
    };
    let mtu = || {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((remote.ip().to_canonical(), remote.port())).ok()?;
        u32::try_from(getsockopt(&socket, sockopt::IpMtu).ok()?).ok()
    };
    let payload = mtu().map(|mtu| mtu.saturating_sub(headers.into()));
    let payload = payload.map_or(PAYLOAD_BYTES_USUAL, |payload| u16::try_from(payload).unwrap_or(PAYLOAD_BYTES_MAX));
    payload.clamp(PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MAX)
}

/// For a dial to the node called `node`.
pub(super) fn client(
    identity: &Arc<Identity>,
    limits: &TunnelLimits,
    node: &str,
    remote: SocketAddr,
) -> Result<ClientConfig, TunnelError> {
    let tls = QuicClientConfig::try_from(identity.client(node)?).map_err(|_| TunnelError::Cipher)?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport(limits, remote, true)));
    Ok(config)
}

/// For whoever dials this node.
pub(super) fn server(identity: &Arc<Identity>) -> Result<ServerConfig, TunnelError> {
    let tls = QuicServerConfig::try_from(identity.server()?).map_err(|_| TunnelError::Cipher)?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.max_incoming(HANDSHAKES_MAX * 2).incoming_buffer_size_total(HANDSHAKES_BYTES);
    Ok(config)
}

/// The same for one who dials from `remote`.
pub(super) fn server_for(server: &ServerConfig, limits: &TunnelLimits, remote: SocketAddr) -> Arc<ServerConfig> {
    let mut config = server.clone();
    config.transport_config(Arc::new(transport(limits, remote, false)));
    Arc::new(config)
}
