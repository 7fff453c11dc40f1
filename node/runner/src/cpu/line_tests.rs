//! Who of several that want to compute goes first.

use super::*;
use futures::task::noop_waker;

const MS: u64 = 1_000_000;

fn accounts<const N: usize>(requests: [u32; N]) -> [Arc<Account>; N] {
    requests.map(|request| Account::new(None, Some(request)))
}

fn turn(entry: Entry) -> Turn {
    match entry {
        Entry::Turn(turn) => turn,
        Entry::Wait(_) => panic!("it must wait"),
    }
}

fn seat(entry: Entry) -> Arc<Seat> {
    match entry {
        Entry::Wait(seat) => seat,
        Entry::Turn(_) => panic!("it has a turn at once"),
    }
}

fn enter(line: &mut Line, account: &Arc<Account>) -> Entry {
    line.enter(account, &noop_waker(), false)
}

/// All want to compute all the time, for 2 ms each turn; gives how many turns each had.
fn share_out(line: &mut Line, accounts: &[Arc<Account>], turns: usize) -> Vec<usize> {
    let waker = noop_waker();
    let mut had = vec![0; accounts.len()];
    let mut running = VecDeque::new();
    let mut waiting = Vec::new();
    for (index, account) in accounts.iter().enumerate() {
        match enter(line, account) {
            Entry::Turn(turn) => running.push_back((index, turn)),
            Entry::Wait(seat) => waiting.push((index, seat)),
        }
    }
    for _ in 0..turns {
        let (index, turn) = running.pop_front().unwrap();
        had[index] += 1;
        let (seat, _) = line.give_way(&turn, &accounts[index], 2 * MS, &waker);
        waiting.push((index, seat));
        waiting.retain(|(index, seat)| match seat.called(&waker) {
            Some(turn) => {
                running.push_back((*index, turn));
                false
            }
            None => true,
        });
    }
    let left: Vec<_> = waiting.into_iter().filter_map(|(index, seat)| Some((index, seat.leave()?))).collect();
    for (index, turn) in running.into_iter().chain(left) {
        line.leave(&turn, &accounts[index], 0);
    }
    assert!(!line.is_busy() && line.waiting.is_empty(), "nothing is left behind");
    had
}

#[test]
fn turns_are_as_many_as_processors() {
    let mut line = Line::new(2, 0);
    let [a, b, c] = accounts([0; 3]);
    let first = turn(enter(&mut line, &a));
    let _second = turn(enter(&mut line, &b));
    let waits = seat(enter(&mut line, &c));
    assert!(waits.called(&noop_waker()).is_none());
    assert_eq!(line.leave(&first, &a, MS).len(), 1, "one is woken");
    assert!(waits.called(&noop_waker()).is_some());
    assert!(waits.called(&noop_waker()).is_none(), "a turn is had once");
}

#[test]
fn who_has_used_less_than_it_requested_need_not_wait() {
    let mut line = Line::new(1, 0);
    let [a, b, prompt] = accounts([0; 3]);
    let running = turn(enter(&mut line, &a));
    let waits = seat(enter(&mut line, &b));
    let beside = turn(line.enter(&prompt, &noop_waker(), true));
    let _also_waits = seat(line.enter(&prompt, &noop_waker(), true));
    assert!(line.leave(&running, &a, 2 * MS).is_empty(), "its turn is another's now");
    assert!(waits.called(&noop_waker()).is_none());
    assert_eq!(line.leave(&beside, &prompt, MS).len(), 1);
}

#[test]
fn equals_take_turns() {
    let mut line = Line::new(1, 0);
    let had = share_out(&mut line, &accounts([100; 5]), 1000);
    assert!(had.iter().all(|&had| had.abs_diff(200) <= 2), "{had:?}");
}

#[test]
fn turns_go_by_weight_and_nobody_starves() {
    let mut line = Line::new(2, 0);
    let had = share_out(&mut line, &accounts([100, 100, 300, 300]), 8000);
    for (index, expected) in [1000, 1000, 3000, 3000].into_iter().enumerate() {
        assert!(had[index].abs_diff(expected) <= expected / 10, "{had:?}");
    }
    let had = share_out(&mut Line::new(1, 0), &accounts([0, 100, 1000]), 10_000);
    assert!(had[0] >= 15, "{had:?}");
}

#[test]
fn who_comes_back_goes_first_but_saves_nothing_up() {
    let mut line = Line::new(1, 0);
    let everyone = accounts([0; 4]);
    let [busy @ .., sleeper] = &everyone;
    share_out(&mut line, busy, 999);
    let running = turn(enter(&mut line, &busy[0]));
    let _waiting = [seat(enter(&mut line, &busy[1])), seat(enter(&mut line, &busy[2]))];
    let mine = seat(enter(&mut line, sleeper));
    let (next, _) = line.give_way(&running, &busy[0], 2 * MS, &noop_waker());
    let running = mine.called(&noop_waker()).unwrap();
    // It has had what the others have now, and its next turn comes after theirs.
    line.charge(sleeper, 2 * MS);
    line.charge(sleeper, 2 * MS);
    let (mine, _) = line.give_way(&running, sleeper, 2 * MS, &noop_waker());
    assert!(mine.called(&noop_waker()).is_none());
    drop(next);
    let mut line = Line::new(1, 0);
    let everyone = accounts([0; 4]);
    share_out(&mut line, &everyone[..3], 999);
    let had = share_out(&mut line, &everyone, 400);
    assert!(had.iter().all(|&had| had.abs_diff(100) <= 5), "{had:?}");
}

#[test]
fn many_tasks_of_one_container_count_as_one() {
    let mut line = Line::new(1, 0);
    let [many, one] = accounts([100; 2]);
    let mut running = (turn(enter(&mut line, &many)), true);
    let mut seats = (0..50).map(|_| (seat(enter(&mut line, &many)), true)).collect::<Vec<_>>();
    seats.push((seat(enter(&mut line, &one)), false));
    let mut had = [0, 0];
    for _ in 0..40 {
        let (of, account) = if running.1 { (0, &many) } else { (1, &one) };
        had[of] += 1;
        line.leave(&running.0, account, 2 * MS);
        seats.push((seat(enter(&mut line, account)), running.1));
        let next = seats.iter().position(|(seat, _)| matches!(*seat.0.lock(), SeatState::Called(_))).unwrap();
        let (seat, is_many) = seats.swap_remove(next);
        running = (seat.called(&noop_waker()).unwrap(), is_many);
    }
    assert!(had[1] >= 18, "{had:?}");
}

#[test]
fn a_seat_that_was_left_is_passed_over() {
    let mut line = Line::new(1, 0);
    let [a, b, c] = accounts([0; 3]);
    let running = turn(enter(&mut line, &a));
    let (gone, stays) = (seat(enter(&mut line, &b)), seat(enter(&mut line, &c)));
    assert!(gone.leave().is_none());
    line.leave(&running, &a, MS);
    let running = stays.called(&noop_waker()).unwrap();
    let leaves = seat(enter(&mut line, &b));
    line.leave(&running, &c, MS);
    let turn_of_nobody = leaves.leave().unwrap();
    line.leave(&turn_of_nobody, &b, 0);
    assert!(!line.is_busy(), "turns come back");
    let _ = turn(enter(&mut line, &a));
}

#[test]
fn a_turn_that_lasts_too_long_makes_room_for_another() {
    let mut line = Line::new(1, 1);
    let [a, b, c] = accounts([0; 3]);
    let thread = ThreadClock::mine();
    let long = turn(enter(&mut line, &a));
    let (second, third) = (seat(enter(&mut line, &b)), seat(enter(&mut line, &c)));
    assert!(line.tick(|_| MS).is_empty(), "it has not begun");
    line.begin(&long, thread);
    assert!(line.tick(|_| MS).is_empty(), "a tick is what a turn may last");
    assert!(line.tick(|_| MS + MS / 2).is_empty(), "it wants to stop, but is not let to by the kernel");
    assert_eq!(line.tick(|_| 3 * MS).len(), 1);
    let also_long = second.called(&noop_waker()).unwrap();
    line.begin(&also_long, thread);
    line.tick(|_| 10 * MS);
    assert!(line.tick(|_| 20 * MS).is_empty(), "only so many may be overdue");
    assert!(third.called(&noop_waker()).is_none());
    line.leave(&long, &a, 9 * MS);
    // Now the other one may be overdue.
    assert_eq!(line.tick(|_| 30 * MS).len(), 1);
    assert!(third.called(&noop_waker()).is_some());
    line.leave(&also_long, &b, 9 * MS);
    assert!(line.is_busy());
}
