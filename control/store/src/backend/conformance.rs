//! One suite for all backends: what the code above relies on.

use super::{Backend, BackendError, Batch, Family, MemoryBackend, RocksBackend};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

/// A backend that can be taken down and brought up again.
trait Fixture {
    fn backend(&self) -> Arc<dyn Backend>;
    /// Ends and starts it again; what was not synced may be gone.
    fn restart(&mut self);
}

struct Rocks {
    directory: tempfile::TempDir,
    backend: Option<Arc<RocksBackend>>,
}

impl Rocks {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let backend = Some(Arc::new(RocksBackend::open(directory.path()).unwrap()));
        Self { directory, backend }
    }
}

impl Fixture for Rocks {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(self.backend.as_ref().unwrap()) as Arc<dyn Backend>
    }

    fn restart(&mut self) {
        // The database must be closed before it can be opened again.
        self.backend = None;
        self.backend = Some(Arc::new(RocksBackend::open(self.directory.path()).unwrap()));
    }
}

struct Memory {
    backend: Arc<MemoryBackend>,
    seed: u64,
}

impl Fixture for Memory {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend) as Arc<dyn Backend>
    }

    fn restart(&mut self) {
        self.backend = Arc::new(self.backend.crash(self.seed));
    }
}

fn all(case: impl Fn(&mut dyn Fixture)) {
    case(&mut Rocks::new());
    for seed in 0..8 {
        case(&mut Memory { backend: Arc::new(MemoryBackend::new()), seed });
    }
}

fn write(backend: &Arc<dyn Backend>, sync: bool, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::default();
    fill(&mut batch);
    backend.write(&batch, sync).unwrap();
}

fn pairs(backend: &Arc<dyn Backend>, family: Family, start: &str, end: Option<&str>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    backend
        .scan(family, start.as_bytes(), end.map(str::as_bytes), &mut |key, value| {
            found.push((text(key), text(value)));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

fn keys(backend: &Arc<dyn Backend>, family: Family, start: &str, end: Option<&str>) -> Vec<String> {
    pairs(backend, family, start, end).into_iter().map(|(key, _)| key).collect()
}

#[test]
fn families_are_apart() {
    all(|fixture| {
        let backend = fixture.backend();
        write(&backend, true, |batch| {
            for family in Family::ALL {
                batch.put(family, b"key", family.name().as_bytes());
            }
        });
        for family in Family::ALL {
            assert_eq!(backend.get(family, b"key").unwrap().unwrap(), family.name());
            assert_eq!(pairs(&backend, family, "", None), [("key".to_owned(), family.name().to_owned())]);
        }
        assert_eq!(backend.get(Family::Log, b"other").unwrap(), None);
    });
}

#[test]
fn scans_are_ordered_bounded_and_can_be_broken_off() {
    all(|fixture| {
        let backend = fixture.backend();
        write(&backend, false, |batch| {
            for key in ["c", "a", "b", "aa", "\u{7f}"] {
                batch.put(Family::Objects, key.as_bytes(), b"");
            }
        });
        assert_eq!(keys(&backend, Family::Objects, "", None), ["a", "aa", "b", "c", "\u{7f}"]);
        assert_eq!(keys(&backend, Family::Objects, "aa", Some("c")), ["aa", "b"]);
        assert_eq!(keys(&backend, Family::Objects, "ab", None), ["b", "c", "\u{7f}"]);
        for (start, end) in [("b", "b"), ("c", "a"), ("x", "y")] {
            assert!(keys(&backend, Family::Objects, start, Some(end)).is_empty(), "{start}..{end}");
        }
        let mut seen = 0;
        let mut visit = |_: &[u8], _: &[u8]| {
            seen += 1;
            if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        backend.scan(Family::Objects, b"", None, &mut visit).unwrap();
        assert_eq!(seen, 2);
    });
}

#[test]
fn the_last_key_is_found() {
    all(|fixture| {
        let backend = fixture.backend();
        assert_eq!(backend.last(Family::Log).unwrap(), None);
        write(&backend, true, |batch| {
            for index in [1_u64, 300, 2] {
                batch.put(Family::Log, &index.to_be_bytes(), b"entry");
            }
        });
        let (key, value) = backend.last(Family::Log).unwrap().unwrap();
        assert_eq!((key, value), (Bytes::copy_from_slice(&300_u64.to_be_bytes()), Bytes::from_static(b"entry")));
        write(&backend, true, |batch| batch.delete(Family::Log, &300_u64.to_be_bytes()));
        assert_eq!(backend.last(Family::Log).unwrap().unwrap().0, 2_u64.to_be_bytes().as_slice());
    });
}

#[test]
fn writes_of_a_batch_apply_in_order() {
    all(|fixture| {
        let backend = fixture.backend();
        write(&backend, false, |batch| batch.put(Family::Meta, b"b", b"before"));
        write(&backend, false, |batch| {
            batch.put(Family::Meta, b"a", b"1");
            batch.delete_range(Family::Meta, b"a", b"c");
            batch.put(Family::Meta, b"b", b"2");
            batch.put(Family::Meta, b"b", b"3");
            batch.put(Family::Meta, b"c", b"4");
            batch.delete(Family::Meta, b"c");
            batch.delete(Family::Meta, b"never there");
            batch.delete_range(Family::Meta, b"z", b"y");
        });
        assert_eq!(pairs(&backend, Family::Meta, "", None), [("b".to_owned(), "3".to_owned())]);
    });
}

#[test]
fn ranges_are_deleted_up_to_their_end() {
    all(|fixture| {
        let backend = fixture.backend();
        write(&backend, false, |batch| {
            for index in 1_u8..=9 {
                batch.put(Family::History, &[b'0' + index], b"x");
            }
        });
        write(&backend, true, |batch| batch.delete_range(Family::History, b"3", b"7"));
        drop(backend);
        for _ in 0..2 {
            let backend = fixture.backend();
            assert_eq!(keys(&backend, Family::History, "", None), ["1", "2", "7", "8", "9"]);
            assert_eq!(backend.get(Family::History, b"3").unwrap(), None);
            drop(backend);
            fixture.restart();
        }
    });
}

#[test]
fn synced_batches_and_all_before_them_survive() {
    all(|fixture| {
        let backend = fixture.backend();
        write(&backend, false, |batch| batch.put(Family::Objects, b"first", b"1"));
        write(&backend, false, |batch| batch.put(Family::Meta, b"second", b"2"));
        write(&backend, true, |batch| batch.put(Family::Log, b"third", b"3"));
        drop(backend);
        fixture.restart();
        let backend = fixture.backend();
        assert_eq!(backend.get(Family::Objects, b"first").unwrap().unwrap(), "1");
        assert_eq!(backend.get(Family::Meta, b"second").unwrap().unwrap(), "2");
        assert_eq!(backend.get(Family::Log, b"third").unwrap().unwrap(), "3");
    });
}

#[test]
fn a_crash_keeps_whole_batches_from_the_front() {
    all(|fixture| {
        let backend = fixture.backend();
        for index in 0_u8..5 {
            write(&backend, false, |batch| {
                for family in Family::ALL {
                    batch.put(family, &[index], &[index]);
                }
            });
        }
        drop(backend);
        fixture.restart();
        let backend = fixture.backend();
        let counts = Family::ALL.map(|family| {
            let mut survivors = Vec::new();
            backend
                .scan(family, &[], None, &mut |key, _| {
                    survivors.push(key[0]);
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert!(survivors.iter().copied().eq(0..u8::try_from(survivors.len()).unwrap()), "a hole: {survivors:?}");
            survivors.len()
        });
        assert!(counts.iter().all(|count| *count == counts[0]), "a batch was torn: {counts:?}");
    });
}

#[test]
fn a_crash_of_the_memory_backend_can_lose_every_number_of_unsynced_batches() {
    let mut survivors = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let memory = Arc::new(MemoryBackend::new());
        let backend = Arc::clone(&memory) as Arc<dyn Backend>;
        for index in ["a", "b", "c"] {
            write(&backend, index == "a", |batch| batch.put(Family::Meta, index.as_bytes(), b""));
        }
        assert_eq!(memory.unsynced_batches(), 2);
        let after = Arc::new(memory.crash(seed)) as Arc<dyn Backend>;
        survivors.insert(keys(&after, Family::Meta, "", None).len());
        assert!(backend.write(&Batch::default(), false).is_err(), "the crashed one takes nothing more");
    }
    assert_eq!(survivors.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_database_that_is_open_or_damaged_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/store");
    let backend = RocksBackend::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "for its owner only");
    assert!(matches!(RocksBackend::open(&path), Err(BackendError::Locked(_))));
    drop(backend);
    std::fs::write(path.join("CURRENT"), b"not a manifest's name").unwrap();
    assert!(matches!(RocksBackend::open(&path), Err(BackendError::Damaged(_))));
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(matches!(RocksBackend::open(&file), Err(BackendError::Io(_))), "not a directory");
}
