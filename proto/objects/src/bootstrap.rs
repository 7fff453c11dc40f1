//! How a machine that is no node yet asks to become one: bootstrap tokens as Secrets, in kubeadm's format, and the signer of
//! nodes' certificates. Constants and spellings; nothing here decides.
//!
//! ```text
//!  Secret kube-system/bootstrap-token-ID, type bootstrap.kubernetes.io/token      shown as  ID.SECRET
//!  data: token-id, token-secret, usage-bootstrap-authentication: "true", expiration (RFC 3339), auth-extra-groups
//! ```

use crate::ObjectKey;

/// Where the secrets lie.
pub const NAMESPACE: &str = "kube-system";
/// What begins their names; the token's id follows.
pub const NAME_PREFIX: &str = "bootstrap-token-";
/// Their type.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// What begins the user name of who shows a token; the token's id follows.
pub const USER_PREFIX: &str = "system:bootstrap:";
/// The group of all who show a token. Groups that a token's secret names for it begin with this and a colon.
pub const GROUP: &str = "system:bootstrappers";
/// The group of tokens whose nodes are approved without anybody being asked.
pub const GROUP_APPROVED: &str = "system:bootstrappers:coracle:approved";
/// Annotation of a token's secret: it is for one node. The first one's name is written into [`USED_BY_ANNOTATION`].
pub const SINGLE_USE_ANNOTATION: &str = "coracle.dev/single-use";
/// Annotation of a token's secret for one node: the node that it was used for.
pub const USED_BY_ANNOTATION: &str = "coracle.dev/used-by";
/// Beside it: the uid of the request that it was used for. It is good for no other, not even of the same name.
pub const USED_FOR_ANNOTATION: &str = "coracle.dev/used-for";
/// Who signs the certificates of nodes.
pub const NODE_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Lengths of the two parts of a token, in lower-case letters and digits.
pub const LENGTHS: (usize, usize) = (6, 16);

/// The secret of the token with this id.
#[must_use]
pub fn secret_key(id: &str) -> ObjectKey {
    ObjectKey { namespace: NAMESPACE.to_owned(), name: format!("{NAME_PREFIX}{id}") }
}

/// Id and secret of what could be a token.
#[must_use]
pub fn parts(token: &str) -> Option<(&str, &str)> {
    let is_part = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    token.split_once('.').filter(|(id, secret)| is_part(id, LENGTHS.0) && is_part(secret, LENGTHS.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_two_words() {
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in
            ["", "abcdef", "abcdef.", "abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde/"]
        {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
