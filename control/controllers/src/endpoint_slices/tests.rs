//! Plans for slices, applied to a list of slices.

use super::*;
use crate::service_backends::tests::{pod, service};

fn pods(range: std::ops::Range<usize>) -> Vec<Arc<Value>> {
    range
        .map(|index| Arc::new(pod(&format!("p{index}"), &format!("10.244.{}.{}", index / 200, index % 200), true)))
        .collect()
}

fn web() -> Value {
    service("web", &json!([{"name": "http", "port": 80, "targetPort": "http"}]))
}

/// As the API keeps it.
pub(crate) fn stored(mut slice: Value) -> Arc<Value> {
    (catalogue::endpoint_slices().default)(&mut slice);
    Arc::new(slice)
}

/// The slices after the writes, and how many writes of each sort there were: created, updated, deleted.
fn apply(slices: &[Arc<Value>], writes: Vec<Write>) -> (Vec<Arc<Value>>, (usize, usize, usize)) {
    let mut by_name: BTreeMap<String, Arc<Value>> =
        slices.iter().map(|slice| (meta::name(slice).to_owned(), Arc::clone(slice))).collect();
    let mut counts = (0, 0, 0);
    for write in writes {
        match write {
            Write::Create(_, slice) => {
                counts.0 += 1;
                assert!(by_name.insert(meta::name(&slice).to_owned(), stored(slice)).is_none(), "made twice");
            }
            Write::Update(_, Part::Object, slice) => {
                counts.1 += 1;
                assert!(by_name.insert(meta::name(&slice).to_owned(), stored(slice)).is_some(), "not there");
            }
            Write::Delete(_, key, _) => {
                counts.2 += 1;
                assert!(by_name.remove(&key.name).is_some(), "not there");
            }
            other => panic!("{other:?}"),
        }
    }
    (by_name.into_values().collect(), counts)
}

fn sizes(slices: &[Arc<Value>]) -> Vec<usize> {
    let mut sizes: Vec<usize> = slices.iter().map(|slice| packing::endpoints_of(slice).len()).collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn a_slice_says_all_that_is_known() {
    let (slices, _) = apply(&[], plan(Some(&web()), &pods(1..2), &[]));
    let slice = &slices[0];
    assert!(meta::name(slice).starts_with("web-") && meta::name(slice).len() == 9, "{}", meta::name(slice));
    assert!(is_ours(slice, "web") && !is_ours(slice, "other"));
    assert_eq!(slice["metadata"]["labels"]["team"], "red");
    let owner = &slice["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"], &owner["controller"]),
        (&json!("Service"), &json!("web-uid"), &json!(true))
    );
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(slice["ports"], json!([{"port": 8080, "protocol": "TCP", "name": "http"}]));
    assert_eq!(
        slice["endpoints"],
        json!([{
            "addresses": ["10.244.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "n1", "targetRef": {"kind": "Pod", "namespace": "a", "name": "p1", "uid": "p1-uid"},
        }])
    );
}

#[test]
fn endpoints_stay_where_they_are() {
    for ports in [json!([{"name": "http", "port": 80, "targetPort": "http"}]), json!([{"port": 80}])] {
        stay_where_they_are(&service("web", &ports));
    }
}

fn stay_where_they_are(web: &Value) {
    let mut slices = Vec::new();
    let mut step = |range: std::ops::Range<usize>, expected_sizes: &[usize], expected_counts: (usize, usize, usize)| {
        let (after, counts) = apply(&slices, plan(Some(web), &pods(range.clone()), &slices));
        assert_eq!((sizes(&after).as_slice(), counts), (expected_sizes, expected_counts), "{range:?}");
        assert!(plan(Some(web), &pods(range), &after).is_empty(), "then nothing is left to do");
        slices = after;
    };
    step(0..0, &[0], (1, 0, 0));
    step(0..100, &[100], (0, 1, 0));
    step(0..250, &[50, 100, 100], (2, 0, 0));
    step(0..260, &[60, 100, 100], (0, 1, 0));
    step(50..260, &[50, 60, 100], (0, 1, 0));
    step(50..300, &[50, 100, 100], (0, 1, 0));
    step(250..300, &[50], (0, 1, 2));
    step(0..0, &[0], (0, 1, 0));
}

#[test]
fn a_changed_condition_changes_one_slice() {
    let (slices, _) = apply(&[], plan(Some(&web()), &pods(0..150), &[]));
    let mut changed = pods(0..150);
    changed[3] = Arc::new(pod("p3", "10.244.0.3", false));
    let (after, counts) = apply(&slices, plan(Some(&web()), &changed, &slices));
    assert_eq!((sizes(&after), counts), (vec![50, 100], (0, 1, 0)));
}

#[test]
fn other_ports_have_other_slices_and_spare_ones_are_written_over() {
    let (slices, _) = apply(&[], plan(Some(&web()), &pods(0..2), &[]));
    let mut other = pod("other", "10.244.0.9", true);
    other["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090.into();
    let mixed = [pods(0..2), vec![Arc::new(other)]].concat();
    let (two, counts) = apply(&slices, plan(Some(&web()), &mixed, &slices));
    assert_eq!((sizes(&two), counts), (vec![1, 2], (1, 0, 0)));

    let renamed = service("web", &json!([{"name": "http", "port": 80, "targetPort": 7000}]));
    let (after, counts) = apply(&slices, plan(Some(&renamed), &pods(0..2), &slices));
    assert_eq!((sizes(&after), counts), (vec![2], (0, 1, 0)));
}

#[test]
fn the_end_of_a_service_is_the_end_of_its_slices() {
    let (slices, _) = apply(&[], plan(Some(&web()), &pods(0..250), &[]));
    assert_eq!(apply(&slices, plan(None, &pods(0..250), &slices)).1, (0, 0, 3));
    let mut manual = web();
    manual["spec"]["selector"] = json!({});
    assert!(
        plan(Some(&manual), &pods(0..250), &slices).is_empty(),
        "without a selector it is somebody else's business"
    );
    let mut again = web();
    again["metadata"]["uid"] = "another".into();
    let (after, counts) = apply(&slices, plan(Some(&again), &pods(0..1), &slices));
    assert_eq!((after.len(), counts), (1, (1, 0, 3)));
}

#[test]
fn planning_twice_on_the_same_state_makes_the_same_names() {
    let names = |writes: Vec<Write>| -> Vec<String> {
        let name = |write: &Write| match write {
            Write::Create(_, slice) => meta::name(slice).to_owned(),
            other => panic!("{other:?}"),
        };
        writes.iter().map(name).collect()
    };
    let first = names(plan(Some(&web()), &pods(0..250), &[]));
    assert_eq!(first, names(plan(Some(&web()), &pods(0..250), &[])));
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3);
}
