//! What the content store keeps, what it forgets, and for whom.

use super::*;

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[test]
fn only_verified_blobs_get_their_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let digest = digest_of(b"hello");
    let rows: [(&[u8], u64, &str); 4] = [
        (b"hell", 5, "1 bytes shorter"),
        (b"hello!", 5, "longer than"),
        (b"jello", 5, "has digest"),
        (b"hello", 5, ""),
    ];
    for (bytes, announced, complaint) in rows {
        let mut writer = store.begin(&digest, announced).unwrap();
        let result = writer.write(bytes).and_then(|()| writer.finish());
        match result {
            Ok(()) => assert_eq!(complaint, ""),
            Err(failure) => {
                assert!(!complaint.is_empty() && failure.text.contains(complaint), "{}", failure.text);
                assert!(!store.holds(&digest, 5));
            }
        }
    }
    assert!(store.holds(&digest, 5) && !store.holds(&digest, 6));
    assert_eq!(store.read(&digest).unwrap(), b"hello");
    let path = store.blob_path(&digest).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"jello").unwrap();
    assert_eq!(store.read(&digest), None, "it was damaged");
    assert!(store.begin("sha256:../../x", 1).is_err());
    assert_eq!(fs::read_dir(directory.path().join("partial")).unwrap().count(), 0);
    assert_eq!(store.take(&mut &b"hello"[..], 5).unwrap(), digest);
    assert!(store.take(&mut &b"hell"[..], 5).is_err() && store.take(&mut &b"hello!"[..], 5).is_err());
}

#[test]
fn names_survive_reopening_and_leftovers_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.lookup("r/app:v1"), None);
    store.remember("r/app:v1", "sha256:1", &Access::Open).unwrap();
    store.remember("r/app:v1", "sha256:2", &Access::Open).unwrap();
    let partial = directory.path().join("partial");
    fs::write(partial.join("left"), b"x").unwrap();
    let digest = digest_of(b"hello");
    let old = digest_of(b"old");
    for digest in [&digest, &old] {
        let mut writer = store.begin(digest, 5).unwrap();
        writer.write(b"hel").unwrap();
        writer.leave();
    }
    let file = File::options().write(true).open(partial.join(hex_of(&old).unwrap())).unwrap();
    file.set_modified(SystemTime::now() - PARTIAL_KEPT - Duration::from_mins(1)).unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.lookup("r/app:v1").unwrap().manifest, "sha256:2");
    assert_eq!(fs::read_dir(&partial).unwrap().count(), 1, "only what can go on stays");
    let mut writer = store.begin(&digest, 5).unwrap();
    assert_eq!(writer.done_bytes(), 3);
    writer.write(b"lo").unwrap();
    writer.finish().unwrap();
    assert!(store.holds(&digest, 5));
}

#[test]
fn an_image_remembers_who_may_use_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let user = |name: &str| Credential::Password { username: name.to_owned(), password: "p".to_owned() };
    let (ours, theirs) = (user("ours"), user("theirs"));
    let may = |store: &Store, who: &[&Credential]| store.may_use(&store.lookup("n").unwrap(), who);
    store.remember("n", "sha256:1", &Access::By(ours.clone())).unwrap();
    assert!(may(&store, &[&theirs, &ours]) && !may(&store, &[&theirs]) && !may(&store, &[]));
    let store = Store::open(directory.path()).unwrap();
    assert!(may(&store, &[&ours]), "the same after a restart");
    store.remember("n", "sha256:1", &Access::By(theirs.clone())).unwrap();
    assert!(may(&store, &[&theirs]) && may(&store, &[&ours]));
    store.remember("n", "sha256:2", &Access::By(theirs.clone())).unwrap();
    assert!(may(&store, &[&theirs]) && !may(&store, &[&ours]), "another image is another question");
    for index in 0..=KNOWN_CREDENTIALS_MAX {
        store.remember("n", "sha256:2", &Access::By(user(&index.to_string()))).unwrap();
    }
    assert!(!may(&store, &[&theirs]) && may(&store, &[&user("1")]), "only so many are remembered");
    store.remember("n", "sha256:2", &Access::Open).unwrap();
    assert!(may(&store, &[]));
    store.remember("n", "sha256:2", &Access::By(ours)).unwrap();
    assert!(may(&store, &[]), "what everyone may have stays so");
    let files = fs::read_dir(directory.path().join("index")).unwrap();
    let text: String = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    assert!(!text.contains("theirs"), "{text}");
}
