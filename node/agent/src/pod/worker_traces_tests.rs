//! What pods and namespaces leave on disk when they are gone: nothing, whenever they went.

use super::*;
use crate::homes::Known;
use std::{fs, path::PathBuf};

impl World {
    /// Removes the homes of those that are gone.
    fn tidy(&mut self) {
        let (namespaces, stop) = (self.context.caches.namespaces.clone(), self.stop.clone());
        let known = Known { namespaces, pods: self.ready.clone(), statics: watch::channel(false).1 };
        self.tasks.push(tokio::spawn(self.context.homes.clone().tidy(self.guests.clone(), known, stop)));
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("ns/ns-1")
    }
}

#[tokio::test]
async fn a_namespace_deleted_while_the_agent_was_away_leaves_nothing() {
    let world = World::new();
    world.link.put(PODS, simple("Always"));
    world.until("running", |pod| phase(pod) == "Running").await;
    assert!(world.home().join("volumes/u-1").exists());
    world.link.set_down(true);
    let mut world = world.restart().await;
    world.tidy();
    world.link.remove(PODS, &key());
    world.link.remove(NAMESPACES, &ObjectKey::cluster("default"));
    world.link.set_down(false);
    eventually("nothing is left", || !world.home().exists()).await;
    assert_eq!(world.context.owners.namespaces(), [""; 0]);
}

#[tokio::test]
async fn a_home_outlasts_its_namespace_until_its_last_pod_has_gone() {
    let mut world = World::new();
    world.tidy();
    world.link.put(PODS, simple("Always"));
    world.until("running", |pod| phase(pod) == "Running").await;
    world.link.remove(NAMESPACES, &ObjectKey::cluster("default"));
    let mut version = world.context.caches.namespaces.version();
    version.wait_for(|_| world.context.caches.namespaces.all().is_empty()).await.unwrap();
    assert!(world.home().join("volumes/u-1").exists() && world.guests.dismissed().is_empty());
    world.link.remove(PODS, &key());
    eventually("nothing is left", || !world.home().exists()).await;
    assert_eq!(world.guests.dismissed(), ["ns-1"]);
}

#[tokio::test]
async fn what_is_being_written_for_a_pod_is_waited_for_and_then_removed() {
    let world = World::new();
    world.link.put(PODS, simple("Always"));
    world.until("running", |pod| phase(pod) == "Running").await;
    let volumes = world.home().join("volumes/u-1");
    let writing = world.registry.writing("u-1").unwrap();
    world.link.remove(PODS, &key());
    eventually("it is not known any more", || world.registry.find("u-1", "", "").is_none()).await;
    assert!(world.registry.writing("u-1").is_none(), "nobody begins to write any more");
    // As a set-up does that was given up while it wrote.
    fs::create_dir_all(volumes.join("late")).unwrap();
    assert!(volumes.join("late").exists());
    drop(writing);
    eventually("it is removed", || !volumes.exists()).await;
}
