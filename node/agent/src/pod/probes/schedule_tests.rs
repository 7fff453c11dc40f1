//! When probes are due, and what a row of results comes to.

use super::*;
use serde_json::json;

fn spec(kind: Kind, more: serde_json::Value) -> Spec {
    let serde_json::Value::Object(more) = more else { panic!("an object is wanted") };
    let mut probe = json!({"tcpSocket": {"port": 1}});
    probe.as_object_mut().unwrap().extend(more);
    Spec::of(&json!({kind.field(): probe}), kind).unwrap()
}

/// Probes as soon as it is due, with these results; answers the times since the start and the verdicts.
fn play(mut schedule: Schedule, start: Instant, results: &[Option<bool>]) -> Vec<(f64, Option<bool>)> {
    let mut played = Vec::new();
    for result in results {
        let Some(at) = schedule.due() else { break };
        schedule.begin();
        assert_eq!(schedule.due(), None, "one at a time");
        played.push(((at - start).as_secs_f64(), schedule.done(*result, at)));
    }
    played
}

const GOOD: Option<bool> = Some(true);
const BAD: Option<bool> = Some(false);

#[test]
fn liveness_fails_after_its_threshold_and_then_is_over() {
    let start = Instant::now();
    let schedule = Schedule::new(spec(Kind::Liveness, json!({"periodSeconds": 5})), start, false);
    let results = [GOOD, BAD, BAD, GOOD, BAD, BAD, BAD, BAD];
    let expected = [(5.0, GOOD), (10.0, None), (15.0, None), (20.0, None), (25.0, None), (30.0, None), (35.0, BAD)];
    assert_eq!(play(schedule, start, &results), expected);
    // With a delay it begins when that is over, whatever the period.
    let delayed = spec(Kind::Liveness, json!({"initialDelaySeconds": 3, "failureThreshold": 1}));
    assert_eq!(play(Schedule::new(delayed, start, false), start, &[BAD, BAD]), [(3.0, BAD)]);
}

#[test]
fn readiness_goes_to_and_fro_by_its_thresholds() {
    let start = Instant::now();
    let spec = spec(Kind::Readiness, json!({"successThreshold": 2, "failureThreshold": 2, "initialDelaySeconds": 1}));
    let results = [GOOD, GOOD, BAD, GOOD, BAD, BAD, BAD, GOOD, GOOD];
    let verdicts: Vec<_> = play(Schedule::new(spec, start, false), start, &results);
    let expected = [None, GOOD, None, None, None, BAD, None, None, GOOD];
    assert_eq!(verdicts.iter().map(|row| row.1).collect::<Vec<_>>(), expected);
    assert_eq!((verdicts[0].0, verdicts[1].0, verdicts[8].0), (1.0, 11.0, 81.0));
}

#[test]
fn early_looks_find_what_is_ready_and_count_no_failure() {
    let start = Instant::now();
    let of = |kind| Schedule::new(spec(kind, json!({"periodSeconds": 1, "failureThreshold": 1})), start, false);
    for kind in [Kind::Readiness, Kind::Startup] {
        let played = play(of(kind), start, &[BAD, BAD, BAD, GOOD]);
        let expected = [(0.0, None), (0.05, None), (0.15, None), (0.35, GOOD)];
        for (found, expected) in played.iter().zip(expected) {
            assert!((found.0 - expected.0).abs() < 0.001 && found.1 == expected.1, "{kind:?}: {played:?}");
        }
        // Four looks before the first period is over; then the one that counts.
        let played = play(of(kind), start, &[BAD; 6]);
        let counted = played.iter().position(|row| row.1 == BAD).unwrap();
        assert!((played[counted].0 - 1.0).abs() < 0.001 && counted >= 3, "{kind:?}: {played:?}");
    }
    // A command costs more: it is not run so often.
    let command = Spec { is_command: true, ..spec(Kind::Readiness, json!({})) };
    let played = play(Schedule::new(command, start, false), start, &[BAD; 5]);
    let times: Vec<f64> = played.iter().map(|row| row.0).collect();
    assert_eq!(times, [0.0, 1.0, 3.0, 10.0, 20.0]);
}

#[test]
fn startup_holds_the_others_back_and_has_one_verdict() {
    let start = Instant::now();
    let mut held = Schedule::new(spec(Kind::Liveness, json!({"initialDelaySeconds": 30})), start, true);
    assert_eq!(held.due(), None);
    let later = start + Duration::from_secs(10);
    held.container_started(later);
    assert_eq!(held.due(), Some(start + Duration::from_secs(30)));
    let mut held = Schedule::new(spec(Kind::Readiness, json!({})), start, true);
    held.container_started(later);
    assert_eq!(held.due(), Some(later));
    let startup = Schedule::new(spec(Kind::Startup, json!({})), start, false);
    assert_eq!(play(startup, start, &[GOOD, GOOD]), [(0.0, GOOD)]);
}

#[test]
fn a_probe_that_could_not_be_made_says_nothing() {
    let start = Instant::now();
    let spec = spec(Kind::Liveness, json!({"failureThreshold": 2}));
    let played = play(Schedule::new(spec, start, false), start, &[BAD, None, BAD]);
    assert_eq!(played.iter().map(|row| row.1).collect::<Vec<_>>(), [None, None, BAD]);
}

#[test]
fn a_slow_probe_is_followed_at_once_and_never_overlapped() {
    let start = Instant::now();
    let mut schedule = Schedule::new(spec(Kind::Liveness, json!({"periodSeconds": 1})), start, false);
    schedule.begin();
    let end = start + Duration::from_secs(9);
    schedule.done(GOOD, end);
    assert_eq!(schedule.due(), Some(end));
}
