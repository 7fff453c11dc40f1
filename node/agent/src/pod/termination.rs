//! The message that a container leaves for whoever wonders why it ended.

use crate::{
    context::Context,
    pod::{
        spec,
        volumes::{message_path, mounts::open_file},
    },
};
use coracle_objects::meta;
use coracle_runner::protocol::RunId;
use serde_json::Value;
use std::{io::Read, path::Path};
use tracing::debug;

/// Longest message, as in Kubernetes.
const MESSAGE_BYTES_MAX: u64 = 4096;

/// Reads the message of a container's last run; `""` where it left none. Reads a file: not for async threads.
pub(crate) fn read(context: &Context, namespace_uid: &str, pod: &Value, container: &Value, run: &RunId) -> String {
    let directory = context.volumes(namespace_uid, meta::uid(pod));
    let message = message(pod, container, &directory);
    debug!(
        pod = meta::name(pod),
        container = spec::text(container, "name"),
        run = run.0,
        bytes = message.len(),
        "termination message"
    );
    message
}

fn message(pod: &Value, container: &Value, directory: &Path) -> String {
    let mut bytes = Vec::new();
    let Ok(file) = open_file(pod, container, directory, &message_path(container)) else { return String::new() };
    // A directory or something stranger has no message.
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return String::new();
    }
    match file.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes) {
        Ok(_) => bounded(&bytes),
        Err(_) => String::new(),
    }
}

/// As text, without half a letter at the end, and no longer than it was.
fn bounded(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    let max = usize::try_from(MESSAGE_BYTES_MAX).unwrap_or(usize::MAX);
    while text.len() > max {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn a_message_is_read_wherever_it_was_written_and_no_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path();
        for path in [".layers/main/dev", ".layers/main/var", "scratch/part", "scratch/dir"] {
            fs::create_dir_all(directory.join(path)).unwrap();
        }
        fs::write(directory.join("secret"), "secret").unwrap();
        fs::write(directory.join(".layers/main/dev/termination-log"), "bye").unwrap();
        fs::write(directory.join("scratch/part/why"), "x".repeat(5000)).unwrap();
        fs::write(directory.join("scratch/odd"), [b'a', 0xff]).unwrap();
        symlink("../../secret", directory.join("scratch/part/link")).unwrap();
        symlink("part", directory.join("scratch/links")).unwrap();
        symlink(directory.join("secret"), directory.join(".layers/main/var/link")).unwrap();
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"volumes": [
            {"name": "scratch", "emptyDir": {}}, {"name": "config", "configMap": {"name": "c"}}]}});
        let mounts = json!([
            {"name": "scratch", "mountPath": "/data"}, {"name": "scratch", "mountPath": "/data/deep/", "subPath": "part"},
            {"name": "config", "mountPath": "/config"},
        ]);
        for (path, expected) in [
            ("", "bye".to_owned()),
            ("/data/deep/why", "x".repeat(4096)),
            ("/data/part/why", "x".repeat(4096)),
            ("/data/odd", "a\u{fffd}".to_owned()),
            ("/data/dir", String::new()),
            ("/data/none", String::new()),
            ("/data/deep/link", String::new()),
            ("/data/links/why", String::new()),
            ("/var/link", String::new()),
            ("/config/key", String::new()),
            ("/../../secret", String::new()),
        ] {
            let container = json!({"name": "main", "terminationMessagePath": path, "volumeMounts": mounts});
            assert_eq!(message(&pod, &container, directory), expected, "{path}");
        }
    }

    #[test]
    fn a_message_is_cut_between_letters() {
        assert_eq!(bounded(&[b'a'; 5000][..4096]).len(), 4096);
        let odd = [0xff_u8; 4096];
        assert!(bounded(&odd).len() <= 4096);
    }
}
