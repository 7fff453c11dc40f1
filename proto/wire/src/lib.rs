//! The gRPC contracts between users, servers and nodes: generated code and nothing else.

/// Messages, clients and servers of package `coracle.v1`.
pub mod v1 {
    tonic::include_proto!("coracle.v1");
}

/// The encoded descriptor set of all services, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("coracle.v1");

/// Binary trailer that carries the Kubernetes `Status` object (JSON) of a refused gRPC call.
pub const STATUS_TRAILER: &str = "coracle-status-bin";

/// A channel's frame with fewer bytes than this is padded to as many: peers count what frames have less against all of a
/// connection's frames that wait to be read.
const PADDED_BYTES: usize = 256;

impl v1::SessionFrame {
    /// A channel's frame, padded where there is little in it.
    #[must_use]
    pub fn of_channel(channel: v1::ChannelFrame) -> Self {
        let missing = PADDED_BYTES.saturating_sub(channel.data.len());
        let frame = if missing == 0 {
            v1::session_frame::Frame::Channel(channel)
        } else {
            static ZEROS: [u8; PADDED_BYTES] = [0; PADDED_BYTES];
            let padding = bytes::Bytes::from_static(&ZEROS).slice(..missing);
            v1::session_frame::Frame::Padded(v1::PaddedFrame { channel: Some(channel), padding })
        };
        Self { frame: Some(frame) }
    }

    /// A channel's frame, padded or not, as it was sent; `None` for anything else.
    #[must_use]
    pub fn into_channel(self) -> Option<v1::ChannelFrame> {
        match self.frame? {
            v1::session_frame::Frame::Channel(channel) => Some(channel),
            v1::session_frame::Frame::Padded(padded) => padded.channel,
            _ => None,
        }
    }
}
