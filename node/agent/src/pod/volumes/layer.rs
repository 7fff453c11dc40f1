//! What a container has of its own: the directory that it sees as `/`, made anew for each run.
//!
//! It holds the files that kubelet and the container runtime give a container: `/etc/hosts`, `/etc/hostname`,
//! `/etc/resolv.conf`, the file of its termination message, and `/tmp`. It is gone with the next run, and what is written
//! there counts against the container's `limits.ephemeral-storage`.

use super::beneath::{absolute, make_directory, put_file};
use crate::{
    pod::{env::full_hostname, spec},
    sandbox::Owner,
};
use coracle_net::names::{HostResolver, PodDns, hostname};
use coracle_objects::{meta, ranges::CLUSTER_DNS};
use coracle_runner::tree::{self, Usage};
use nix::sys::stat::Mode;
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Where the layers of a pod are, below its volumes. No volume has such a name.
pub(crate) const DIRECTORY: &str = ".layers";
/// What begins the name of the file, beside the layers, that says how much of a layer was there from the beginning.
const BASE: &str = ".base-";
/// Where a termination message goes when nobody says otherwise.
const MESSAGE_PATH: &str = "/dev/termination-log";
/// What guests write.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o666);
/// How this machine looks names up.
const HOST_RESOLVER: &str = "/etc/resolv.conf";
/// Names that `/etc/hosts` always has.
const HOSTS_HEAD: &str =
    "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Where a container's termination message is, as the container sees it.
pub(crate) fn message_path(container: &Value) -> String {
    match spec::text(container, "terminationMessagePath") {
        "" => MESSAGE_PATH.to_owned(),
        path => absolute(path),
    }
}

/// Whether a container says where its termination message is.
pub(super) fn has_own_message_path(container: &Value) -> bool {
    message_path(container) != MESSAGE_PATH
}

/// A layer that is being made; nobody runs in it yet.
pub(super) struct Layer {
    directory: PathBuf,
    owner: Owner,
}

impl Layer {
    /// Makes an empty one, in the place of what an earlier run left.
    pub(super) fn begin(pod: &Path, container: &str, owner: Owner) -> io::Result<Self> {
        let all = pod.join(DIRECTORY);
        let directory = all.join(container);
        super::remove(&directory)?;
        fs::create_dir_all(&all)?;
        let layer = Self { directory, owner };
        make_directory(&all, Path::new(container), owner)?;
        for name in ["etc", "tmp"] {
            layer.directory(name)?;
        }
        Ok(layer)
    }

    /// Makes a directory, relative to the layer, and those above it. They are the guests' at once, and whoever has taken
    /// a runner over may be quick to put a link there: none is followed.
    pub(super) fn directory(&self, path: &str) -> io::Result<()> {
        make_directory(&self.directory, Path::new(absolute(path).trim_start_matches('/')), self.owner)
    }

    /// Makes a file, and the directories above it; one that is there already is replaced.
    pub(super) fn file(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = absolute(path);
        put_file(&self.directory, Path::new(path.trim_start_matches('/')), bytes, FILE_MODE, self.owner)
    }

    /// The files that every container has in `/etc`.
    pub(super) fn etc(&self, pod: &Value) -> io::Result<()> {
        let address = spec::text(&pod["status"], "podIP").parse::<IpAddr>().ok();
        let host = HostResolver::parse(&fs::read_to_string(HOST_RESOLVER).unwrap_or_default());
        let dns = PodDns::of(pod, address.as_slice(), CLUSTER_DNS.into(), &host);
        self.file("etc/hosts", hosts(pod, address).as_bytes())?;
        self.file("etc/hostname", format!("{}\n", full_hostname(pod)).as_bytes())?;
        self.file("etc/resolv.conf", dns.resolv_conf().as_bytes())
    }

    /// It is complete. What is in it now is not counted as the container's.
    pub(super) fn finish(&self) -> io::Result<()> {
        let usage = tree::measure(&self.directory)?;
        fs::write(base_file(&self.directory), format!("{} {}", usage.bytes, usage.entries))
    }

    /// The names in the layer itself.
    pub(super) fn top(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }
}

fn base_file(layer: &Path) -> PathBuf {
    let name = layer.file_name().unwrap_or_default().to_string_lossy();
    layer.with_file_name(format!("{BASE}{name}"))
}

/// What a container wrote into its layer; one that is not there takes up nothing.
pub(super) fn usage(layer: &Path) -> Usage {
    let Ok(all) = tree::measure(layer) else { return Usage::default() };
    let base = fs::read_to_string(base_file(layer)).unwrap_or_default();
    let mut base = base.split(' ').filter_map(|number| number.parse::<u64>().ok());
    let (bytes, entries) = (base.next().unwrap_or(0), base.next().unwrap_or(0));
    Usage { bytes: all.bytes.saturating_sub(bytes), entries: all.entries.saturating_sub(entries) }
}

/// `/etc/hosts` as kubelet writes it.
fn hosts(pod: &Value, address: Option<IpAddr>) -> String {
    let mut text = HOSTS_HEAD.to_owned();
    if let Some(address) = address {
        let (name, subdomain) = (hostname(pod), spec::text(&pod["spec"], "subdomain"));
        let full = if subdomain.is_empty() {
            String::new()
        } else {
            let domain = coracle_net::names::CLUSTER_DOMAIN;
            format!("{name}.{subdomain}.{}.svc.{domain}\t", meta::namespace(pod))
        };
        let _ = writeln!(text, "{address}\t{full}{name}");
    }
    let aliases = spec::items(&pod["spec"], "hostAliases");
    if !aliases.is_empty() {
        text += "\n# Entries added by HostAliases.\n";
    }
    for alias in aliases {
        let names: Vec<&str> = spec::items(alias, "hostnames").iter().filter_map(Value::as_str).collect();
        let _ = writeln!(text, "{}\t{}", spec::text(alias, "ip"), names.join("\t"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"subdomain": "sub",
            "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["a", "b"]}]}});
        let text = hosts(&pod, "10.244.0.7".parse().ok());
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.contains("\n10.244.0.7\tp.sub.ns.svc.cluster.local\tp\n"), "{text}");
        assert!(text.ends_with("\n10.1.2.3\ta\tb\n"), "{text}");
        assert_eq!(hosts(&json!({"metadata": {"name": "p"}}), None), HOSTS_HEAD);
    }

    #[test]
    fn a_run_begins_with_nothing_of_the_one_before() {
        let pod = tempfile::tempdir().unwrap();
        let layer = Layer::begin(pod.path(), "main", Owner::AGENT).unwrap();
        layer.file("/tmp/left", b"x").unwrap();
        let layer = Layer::begin(pod.path(), "main", Owner::AGENT).unwrap();
        layer.file("/var/run/message", b"").unwrap();
        layer.directory("data/sub").unwrap();
        layer.finish().unwrap();
        let directory = pod.path().join(".layers/main");
        assert_eq!(usage(&directory), Usage::default());
        fs::write(directory.join("tmp/new"), "x").unwrap();
        let new = Usage { bytes: tree::BLOCK_BYTES + tree::ENTRY_BYTES, entries: 1 };
        assert_eq!((usage(&directory), usage(&pod.path().join(".layers/none"))), (new, Usage::default()));
        assert!(!pod.path().join(".layers/main/tmp/left").exists());
        assert_eq!(layer.top().unwrap(), ["data", "etc", "tmp", "var"]);
    }

    #[test]
    fn links_that_a_guest_plants_are_not_followed() {
        let pod = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let layer = Layer::begin(pod.path(), "main", Owner::AGENT).unwrap();
        let directory = pod.path().join(".layers/main");
        for name in ["etc", "tmp"] {
            fs::remove_dir(directory.join(name)).unwrap();
            std::os::unix::fs::symlink(outside.path(), directory.join(name)).unwrap();
        }
        assert!(layer.etc(&json!({"metadata": {"name": "p"}})).is_err());
        assert!(layer.directory("/tmp/data").is_err() && layer.file("/tmp/file", b"x").is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_message_is_where_the_container_says() {
        for (path, expected) in
            [(json!(""), "/dev/termination-log"), (json!("/a//b"), "/a/b"), (json!(null), "/dev/termination-log")]
        {
            assert_eq!(message_path(&json!({"terminationMessagePath": path})), expected);
        }
    }
}
