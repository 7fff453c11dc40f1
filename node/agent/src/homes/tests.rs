//! Which homes go, and when.

use super::*;
use crate::{
    fake::{FakeGuests, eventually},
    reflector::Sink as _,
};
use coracle_objects::ObjectKey;
use serde_json::{Value, json};

struct World {
    directory: tempfile::TempDir,
    homes: Arc<Homes>,
    guests: Arc<FakeGuests>,
    namespaces: Cache,
    pods: watch::Sender<bool>,
    statics: watch::Sender<bool>,
    stop: CancellationToken,
}

impl World {
    /// With what an earlier agent left of these namespaces.
    fn with(uids: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let owners = Arc::new(Owners::open(directory.path()).unwrap());
        for uid in uids {
            fs::create_dir_all(directory.path().join("ns").join(uid).join("volumes/pod/scratch")).unwrap();
            owners.of(uid).unwrap();
        }
        let homes = Homes::new(directory.path(), owners);
        let (namespaces, guests, stop) = (Cache::new(), FakeGuests::new(), CancellationToken::new());
        let (pods, statics) = (watch::Sender::new(false), watch::Sender::new(false));
        let known = Known { namespaces: namespaces.clone(), pods: pods.subscribe(), statics: statics.subscribe() };
        tokio::spawn(homes.clone().tidy(guests.clone(), known, stop.clone()));
        Self { directory, homes, guests, namespaces, pods, statics, stop }
    }

    fn on_disk(&self) -> Vec<String> {
        let mut names: Vec<_> = self.homes.all().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    async fn until(&self, expected: &[&str]) {
        eventually(&format!("{expected:?}"), || self.on_disk() == expected).await;
        // Nothing that was half-way is left either, and no user of what is gone.
        let names = || fs::read_dir(self.directory.path().join("ns")).unwrap().count();
        eventually("nothing else", || names() == expected.len()).await;
        let users = self.homes.owners.namespaces();
        assert!(users.iter().all(|uid| expected.contains(&uid.as_str())), "{users:?} of {expected:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn namespace(uid: &str) -> Value {
    json!({"metadata": {"name": uid, "uid": uid}})
}

#[tokio::test]
async fn a_home_goes_when_its_namespace_is_gone_and_nobody_stays() {
    let mut world = World::with(&["gone-before", "kept", "lived-in", "static-a", "static-b"]);
    let (stay, stay_b) = (world.homes.stay("lived-in"), world.homes.stay("static-b"));
    world.namespaces.replace(vec![namespace("kept"), namespace("../kept")]);
    world.namespaces.apply(namespace("later"));
    fs::create_dir_all(world.directory.path().join("ns/later")).unwrap();
    // Pods that are not known yet may be of any namespace; nothing that happens before says otherwise.
    drop(world.homes.stay("gone-before"));
    tokio::task::yield_now().await;
    assert_eq!(world.on_disk().len(), 6);
    world.pods.send_replace(true);
    world.until(&["kept", "later", "lived-in", "static-a", "static-b"]).await;
    world.statics.send_replace(true);
    world.until(&["kept", "later", "lived-in", "static-b"]).await;
    world.namespaces.delete(&ObjectKey::cluster("later"), "");
    world.until(&["kept", "lived-in", "static-b"]).await;
    drop(stay);
    world.until(&["kept", "static-b"]).await;
    drop(stay_b);
    world.until(&["kept"]).await;
    assert_eq!(world.guests.dismissed(), ["gone-before", "static-a", "later", "lived-in", "static-b"]);
}

#[tokio::test]
async fn who_comes_while_a_home_is_removed_has_a_new_one() {
    let world = World::with(&["a"]);
    let others = [world.homes.stay("a"), world.homes.stay("a")];
    world.homes.remove_unless(&*world.guests, |_| false).unwrap();
    let [one, other] = others;
    drop(one);
    world.homes.remove_unless(&*world.guests, |_| false).unwrap();
    assert_eq!(world.on_disk(), ["a"], "the other one stays");
    drop(other);
    world.homes.take_away("a").unwrap();
    let _new = world.homes.stay("a");
    fs::create_dir_all(world.directory.path().join("ns/a/code")).unwrap();
    world.homes.remove_unless(&*world.guests, |_| false).unwrap();
    assert!(world.directory.path().join("ns/a/code").exists());
    assert_eq!(fs::read_dir(world.directory.path().join("ns")).unwrap().count(), 1, "the old one is gone");
}
