//! What kubectls of different ages do beyond the daily verbs: the ways to change, select, wait and be refused.

use coracle_tests::{Cluster, Kubectl, eventually, guest, wait::contains};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
};

fn each(test: impl Fn(&Cluster, &Kubectl)) {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    for kubectl in cluster.kubectls() {
        test(&cluster, &kubectl);
    }
}

fn run(kubectl: &Kubectl, words: &str) -> String {
    kubectl.run(words).unwrap_or_else(|error| panic!("kubectl {words}: {error}"))
}

fn refused(kubectl: &Kubectl, words: &str, parts: &[&str]) {
    let error = kubectl.run(words).expect_err(words);
    for part in parts {
        assert!(error.contains(part), "kubectl {words} does not say {part:?}: {error}");
    }
}

fn gone(kubectl: &Kubectl, what: &str) {
    eventually(what, || match kubectl.run(&format!("get {what} --ignore-not-found -o name"))? {
        nothing if nothing.is_empty() => Ok(()),
        still => Err(still),
    });
}

/// A pod of one container per list of arguments: `c0`, `c1`, …
fn pod(name: &str, containers: &[&[&str]]) -> String {
    let containers: Vec<Value> = (containers.iter().enumerate())
        .map(|(place, args)| json!({"name": format!("c{place}"), "image": "toolbox:1", "args": args}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"of": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "restartPolicy": "Never", "containers": containers}})
    .to_string()
}

#[test]
fn what_cannot_be_done_is_said_at_once() {
    each(|_, kubectl| {
        kubectl.apply(&pod("p", &[&["wait-eof"]])).unwrap();
        run(kubectl, "wait --for=condition=Ready pod/p --timeout=60s");
        refused(kubectl, "get pods --as=bob", &["Forbidden", "impersonation is not supported"]);
        refused(kubectl, "delete pod p --as=bob --as-group=system:masters", &["impersonation is not supported"]);
        refused(kubectl, "get deployments", &["the server doesn't have a resource type \"deployments\""]);
        refused(kubectl, "get pods --field-selector spec.moon=full", &["field label not supported: spec.moon"]);
        refused(kubectl, "create configmap x -n nowhere", &["namespaces \"nowhere\" not found"]);
        refused(kubectl, "create service nodeport p --tcp=80 --node-port=80", &["spec.ports[0].nodePort"]);
        refused(kubectl, "delete namespace kube-system", &["this namespace may not be deleted"]);
        refused(kubectl, "get --raw /nothing", &["could not find the requested resource"]);
        run(kubectl, "delete pod p --now");
    });
}

#[test]
fn a_dry_run_and_a_diff_show_and_keep_nothing() {
    each(|cluster, kubectl| {
        let map = |value: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": value}})
                .to_string()
        };
        kubectl.apply(&map("old")).unwrap();
        let before = kubectl.json("get configmap m").unwrap();
        for words in [
            "apply --dry-run=server -f -",
            "apply --dry-run=client -f -",
            "replace --dry-run=server -f -",
            "delete --dry-run=server -f -",
        ] {
            kubectl.run_with_input(words, &map("new")).unwrap();
        }
        run(kubectl, "label configmap m a=b --dry-run=server");
        run(kubectl, "delete configmap --all --dry-run=server");
        let difference = kubectl.run_with_input("diff -f -", &map("new")).expect_err("a difference");
        assert!(difference.contains("-  a: old") && difference.contains("+  a: new"), "{difference}");
        kubectl.run_with_input("diff -f -", &map("old")).unwrap();
        assert_eq!(kubectl.json("get configmap m").unwrap(), before);
        let file = cluster.data_dir().join("m.json");
        fs::write(&file, map("new")).unwrap();
        let words = format!("apply --server-side -f {}", file.display());
        match kubectl.run(&words) {
            Ok(_) => assert_eq!(kubectl.json("get configmap m").unwrap()["data"]["a"], "new"),
            Err(error) => assert!(error.contains("not available on the server"), "{error}"),
        }
        run(kubectl, "delete configmap m");
    });
}

#[test]
fn edits_and_patches_change_what_they_say() {
    each(|cluster, kubectl| {
        run(kubectl, "create configmap e --from-literal=a=one --from-literal=b=two");
        let editor = cluster.data_dir().join("editor");
        fs::write(&editor, "#!/bin/sh\nsed -i 's/a: one/a: edited/' \"$1\"\n").unwrap();
        fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).unwrap();
        let output = kubectl.command(["edit", "configmap", "e"]).env("EDITOR", &editor).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        for (kind, patch) in [
            ("strategic", r#"{"data":{"b":null,"c":"strategic"}}"#),
            ("merge", r#"{"data":{"d":"merged"}}"#),
            (
                "json",
                r#"[{"op":"test","path":"/data/d","value":"merged"},{"op":"add","path":"/data/e","value":"added"}]"#,
            ),
        ] {
            kubectl.run_arguments(["patch", "configmap", "e", "--type", kind, "-p", patch]).unwrap();
        }
        let data = &kubectl.json("get configmap e").unwrap()["data"];
        assert_eq!(*data, json!({"a": "edited", "c": "strategic", "d": "merged", "e": "added"}));
        let wrong = r#"[{"op":"test","path":"/data/d","value":"other"}]"#;
        assert!(kubectl.run_arguments(["patch", "configmap", "e", "--type=json", "-p", wrong]).is_err());
        let stale = r#"{"metadata":{"resourceVersion":"1"},"data":{"a":"x"}}"#;
        let error = kubectl.run_arguments(["patch", "configmap", "e", "-p", stale]).unwrap_err();
        assert!(error.contains("the object has been modified"), "{error}");
        run(kubectl, "delete configmap e");
    });
}

#[test]
fn a_watch_by_label_sees_objects_enter_and_leave() {
    each(|_, kubectl| {
        let words = "get configmaps -l set=in -w --output-watch-events --no-headers";
        run(kubectl, "create configmap first");
        run(kubectl, "label configmap first set=in");
        let mut watcher = kubectl.command(words.split(' '));
        let mut watcher = watcher.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut next = |event: &str, name: &str| {
            let line = lines.next().unwrap_or_default();
            let words: Vec<_> = line.split_whitespace().take(2).collect();
            assert_eq!(words, [event, name], "{line}");
        };
        next("ADDED", "first");
        run(kubectl, "create configmap second");
        run(kubectl, "label configmap second set=in");
        next("ADDED", "second");
        run(kubectl, "label configmap second more=yes");
        next("MODIFIED", "second");
        run(kubectl, "label configmap second set=out --overwrite");
        next("DELETED", "second");
        run(kubectl, "delete configmap second first");
        next("DELETED", "first");
        watcher.kill().unwrap();
        watcher.wait().unwrap();
    });
}

#[test]
fn listings_are_whole_in_chunks_and_in_every_form() {
    each(|_, kubectl| {
        let maps: Vec<Value> = (0..7)
            .map(|n| {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"n": n.to_string()},
                    "metadata": {"name": format!("c{n}"), "labels": {"parity": if n % 2 == 0 { "even" } else { "odd" }}}})
            })
            .collect();
        kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": maps}).to_string()).unwrap();
        for (words, expected) in [
            (
                "get cm -o name --chunk-size=2",
                "configmap/c0 configmap/c1 configmap/c2 configmap/c3 configmap/c4 configmap/c5 configmap/c6",
            ),
            ("get cm -l parity=odd -o name", "configmap/c1 configmap/c3 configmap/c5"),
            ("get cm --selector parity!=odd,parity -o name", "configmap/c0 configmap/c2 configmap/c4 configmap/c6"),
            ("get cm --field-selector metadata.name=c3 -o name", "configmap/c3"),
            ("get cm c1 c2 -o jsonpath={.items[*].data.n}", "1 2"),
            ("get cm c1 -o custom-columns=A:.metadata.name,B:.data.n --no-headers", "c1 1"),
            ("get cm c1 -L parity --no-headers --ignore-not-found", "c1 1 0s odd"),
            ("get cm nothing --ignore-not-found", ""),
            ("get cm c5 -o go-template={{.data.n}}", "5"),
            ("get cm --sort-by={.data.n} -o jsonpath={.items[-1:].metadata.name}", "c6"),
        ] {
            let answer = run(kubectl, words);
            let is_age = |word: &&str| !(word.ends_with('s') && word.trim_end_matches('s').parse::<u32>().is_ok());
            let got: Vec<_> = answer.split_whitespace().filter(is_age).collect();
            let expected: Vec<_> = expected.split_whitespace().filter(is_age).collect();
            assert_eq!(got, expected, "{words}");
        }
        run(kubectl, "delete cm -l parity");
        assert!(run(kubectl, "get cm").contains("No resources found"));
    });
}

#[test]
fn deletion_waits_cascades_and_spares_as_it_is_told() {
    each(|_, kubectl| {
        run(kubectl, "create configmap owner");
        let uid = kubectl.json("get configmap owner").unwrap()["metadata"]["uid"].clone();
        let owned = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned",
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]}});
        kubectl.apply(&owned.to_string()).unwrap();
        run(kubectl, "delete configmap owner --cascade=orphan");
        let kept = kubectl.json("get configmap owned").unwrap();
        assert_eq!(kept["metadata"].get("ownerReferences"), None, "{kept}");
        run(kubectl, "create configmap owner");
        let uid = kubectl.json("get configmap owner").unwrap()["metadata"]["uid"].clone();
        let patch = json!({"metadata": {"ownerReferences":
            [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]}});
        kubectl.run_arguments(["patch", "configmap", "owned", "-p", &patch.to_string()]).unwrap();
        run(kubectl, "delete configmap owner");
        gone(kubectl, "configmap owned");

        kubectl.apply(&pod("slow", &[&["count", "1"]])).unwrap();
        run(kubectl, "wait --for=condition=Ready pod/slow --timeout=60s");
        run(kubectl, "delete pod slow --wait=false");
        gone(kubectl, "pod slow");
        kubectl.apply(&pod("forced", &[&["count", "1"]])).unwrap();
        run(kubectl, "delete pod forced --force --grace-period=0");
        gone(kubectl, "pod forced");
    });
}

#[test]
fn logs_are_cut_and_joined_and_events_are_in_order() {
    each(|_, kubectl| {
        kubectl.apply(&pod("two", &[&["echo", "from", "the first"], &["echo", "from the second"]])).unwrap();
        eventually("both ended", || contains(&kubectl.run("get pod two")?, "Completed"));
        let all = run(kubectl, "logs two --all-containers --prefix");
        assert!(all.contains("[pod/two/c0] from the first") && all.contains("[pod/two/c1] from the second"), "{all}");
        assert!(run(kubectl, "logs -l of=two --all-containers").contains("from the second"));
        assert_eq!(run(kubectl, "logs two -c c1 --limit-bytes=4"), "from");
        assert_eq!(run(kubectl, "logs two -c c1 --since-time=2020-01-01T00:00:00Z"), "from the second\n");
        assert_eq!(run(kubectl, "logs two -c c1 --tail=0"), "");
        refused(
            kubectl,
            "logs two -c c1 --previous",
            &["previous terminated container \"c1\" in pod \"two\" not found"],
        );
        refused(kubectl, "logs nobody", &["pods \"nobody\" not found"]);
        let words = "get events --field-selector involvedObject.name=two -o jsonpath={range.items[*]}{.reason}:{end}";
        let order: Vec<String> = eventually("all events", || {
            let reasons = kubectl.run(words)?;
            let reasons: Vec<String> = reasons.split(':').filter(|one| !one.is_empty()).map(str::to_owned).collect();
            if reasons.iter().filter(|reason| *reason == "Started").count() == 2 {
                Ok(reasons)
            } else {
                Err(format!("{reasons:?}"))
            }
        });
        let place = |reason: &str| order.iter().position(|one| one == reason);
        assert!(place("Pulled") < place("Created") && place("Created") < place("Started"), "{order:?}");
        run(kubectl, "delete pod two");
        run(kubectl, "delete events --all");
    });
}
