//! Refusals as gRPC carries them: a code, a message, and the Kubernetes `Status` in a binary trailer.

use coracle_objects::{ApiError, Reason};
use coracle_wire::STATUS_TRAILER;
use tonic::{
    Code, Status,
    metadata::{BinaryMetadataValue, MetadataMap},
};

/// Trailers beyond this are cut: clients bound the header blocks that they take, commonly to 16 KiB in all.
const STATUS_BYTES_MAX: usize = 4096;
const MESSAGE_BYTES_MAX: usize = 1024;

/// The gRPC status of a refusal.
pub(super) fn status(error: &ApiError) -> Status {
    if error.code() >= 500 {
        tracing::warn!(%error, "a gRPC call failed");
    }
    let mut trailer = error.to_status().to_string();
    if trailer.len() > STATUS_BYTES_MAX {
        let mut short = error.clone();
        short.message = cut(&short.message).to_owned();
        if let Some(details) = short.details.as_mut() {
            details.causes.clear();
        }
        trailer = short.to_status().to_string();
    }
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(STATUS_TRAILER, BinaryMetadataValue::from_bytes(trailer.as_bytes()));
    Status::with_metadata(code(error.reason), cut(&error.message), metadata)
}

fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

fn code(reason: Reason) -> Code {
    match reason {
        Reason::BadRequest | Reason::Invalid | Reason::NotAcceptable | Reason::UnsupportedMediaType => {
            Code::InvalidArgument
        }
        Reason::Unauthorized => Code::Unauthenticated,
        Reason::Forbidden => Code::PermissionDenied,
        Reason::NotFound => Code::NotFound,
        Reason::MethodNotAllowed => Code::Unimplemented,
        Reason::AlreadyExists => Code::AlreadyExists,
        Reason::Conflict => Code::Aborted,
        Reason::Gone | Reason::Expired => Code::OutOfRange,
        Reason::RequestEntityTooLarge | Reason::TooManyRequests => Code::ResourceExhausted,
        Reason::InternalError => Code::Internal,
        Reason::ServiceUnavailable => Code::Unavailable,
        Reason::Timeout => Code::DeadlineExceeded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_objects::Cause;

    #[test]
    fn a_refusal_of_any_size_fits_into_trailers() {
        let causes = (0..500).map(|index| Cause::required(format!("spec.containers[{index}].name"), "")).collect();
        let refused = status(&ApiError::invalid("", "Pod", "x", causes));
        assert_eq!(refused.code(), Code::InvalidArgument);
        let trailer = refused.metadata().get_bin(STATUS_TRAILER).unwrap().to_bytes().unwrap();
        assert!(trailer.len() <= STATUS_BYTES_MAX, "{}", trailer.len());
        let value: serde_json::Value = serde_json::from_slice(&trailer).unwrap();
        assert_eq!((value["code"].as_u64(), value["reason"].as_str()), (Some(422), Some("Invalid")));
    }
}
