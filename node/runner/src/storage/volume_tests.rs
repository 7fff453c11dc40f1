//! What files cost while they are written, cut, unnamed and let go of.

use super::*;
use crate::storage::floor::Floor;

const KIB: u64 = 1024;

fn volume(bytes_max: u64) -> Arc<Volume> {
    Arc::new(Volume::new(Account::new(Some(bytes_max), 100, None, Arc::new(Floor::unlimited()))))
}

fn hold(volume: &Arc<Volume>, id: FileId, size: u64) -> Arc<Held> {
    volume.hold(id, size, volume.moment()).unwrap()
}

fn used(volume: &Volume) -> u64 {
    volume.account.used().bytes / KIB
}

#[test]
fn only_growth_is_charged() {
    let volume = volume(16 * KIB);
    let file = hold(&volume, 1, 0);
    for (offset, length, expected) in [
        (Some(0), 1, Some(4)),
        (Some(0), 4096, Some(4)),
        (None, 1, Some(8)),
        (Some(100), 0, Some(8)),
        (Some(1 << 40), 0, Some(8)),
        (Some(12 * KIB), 4 * KIB + 1, None),
        (Some(u64::MAX), 1, None),
        (Some(12 * KIB), 4 * KIB, Some(16)),
        (None, 1, None),
        (Some(0), 16 * KIB, Some(16)),
    ] {
        let before = used(&volume);
        let result = file.write(offset, length).map(drop).ok().map(|()| used(&volume));
        assert_eq!(result, expected, "{offset:?} {length}");
        assert_eq!(used(&volume), expected.unwrap_or(before));
    }
}

#[test]
fn what_fails_is_given_back_unless_another_write_came_between() {
    let volume = volume(100 * KIB);
    let file = hold(&volume, 1, 0);
    file.write(Some(0), 40 * KIB).unwrap().failed(5);
    assert_eq!(used(&volume), 4, "what did arrive stays charged");
    file.resize(0).unwrap().done();
    let (first, second) = (file.write(Some(0), 40 * KIB).unwrap(), file.write(None, 4 * KIB).unwrap());
    first.failed(0);
    assert_eq!(used(&volume), 44);
    drop(second);
    file.resize(60 * KIB).unwrap().failed();
    assert_eq!(used(&volume), 44);
    file.resize(60 * KIB).unwrap().done();
    assert_eq!(used(&volume), 60);
    assert!(file.resize(101 * KIB).is_err());
    assert_eq!(used(&volume), 60);
}

#[test]
fn a_shorter_file_frees_what_nobody_wrote_meanwhile() {
    let volume = volume(100 * KIB);
    let (file, other) = (hold(&volume, 1, 0), hold(&volume, 1, 77));
    drop(file.write(Some(0), 40 * KIB).unwrap());
    let resizing = file.resize(0).unwrap();
    assert_eq!(used(&volume), 40, "it is not done yet");
    resizing.done();
    assert_eq!(used(&volume), 0);
    // A write that lies within what was charged is on disk although the file was cut: it must stay charged.
    drop(file.write(Some(0), 40 * KIB).unwrap());
    let resizing = file.resize(0).unwrap();
    drop(other.write(Some(36 * KIB), 4 * KIB).unwrap());
    resizing.done();
    assert_eq!(used(&volume), 40);
    let writing = other.write(Some(0), 1).unwrap();
    file.resize(0).unwrap().done();
    assert_eq!(used(&volume), 40);
    drop(writing);
    file.resize(0).unwrap().done();
    assert_eq!(used(&volume), 0);
}

#[test]
fn a_file_without_a_name_counts_until_it_is_let_go_of() {
    let volume = volume(100 * KIB);
    let (file, other) = (hold(&volume, 1, 0), hold(&volume, 1, 0));
    drop(file.write(Some(0), 8 * KIB).unwrap());
    file.nameless();
    drop(file);
    assert_eq!(used(&volume), 8);
    let writing = other.write(None, 4 * KIB).unwrap();
    drop(other);
    assert_eq!(used(&volume), 12, "a write still holds it");
    drop(writing);
    assert_eq!(used(&volume), 0);
    // One with a name stays charged.
    drop(hold(&volume, 2, 0).write(None, 4 * KIB).unwrap());
    assert_eq!(used(&volume), 4);
}

#[test]
fn what_was_seen_before_somebody_let_go_is_not_believed() {
    let volume = volume(100 * KIB);
    let moment = volume.moment();
    let other = hold(&volume, 1, 8 * KIB);
    assert!(volume.hold(1, 4 * KIB, moment).is_some(), "a file that is held is known");
    other.resize(0).unwrap().done();
    drop(other);
    assert!(volume.hold(1, 8 * KIB, moment).is_none(), "it was cut meanwhile");
    assert!(volume.hold(1, 0, volume.moment()).is_some());
}
