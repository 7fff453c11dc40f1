//! The gRPC contracts between users, servers and nodes: generated code and nothing else.

/// Messages, clients and servers of package `coracle.v1`.
pub mod v1 {
    tonic::include_proto!("coracle.v1");
}

/// The encoded descriptor set of all services, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("coracle.v1");

/// Binary trailer that carries the Kubernetes `Status` object (JSON) of a refused gRPC call.
pub const STATUS_TRAILER: &str = "coracle-status-bin";
