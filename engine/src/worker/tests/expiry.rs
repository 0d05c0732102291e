//! Session expiry under a wall clock that is set while the node runs.

use super::*;
use crate::ports::{SessionOp, StoredSession};

/// Far enough for every expiry: as where a machine without a clock hears from NTP.
const FIFTY_YEARS_MS: u64 = 50 * 365 * 86_400_000;

fn sessions_left(worker: &Rc<Worker>) -> usize {
    tick(worker);
    worker.expire_sessions();
    worker.session_count()
}

#[test]
fn a_session_expires_by_what_has_passed_whatever_the_wall_clock_says() {
    // After 60 s.
    let worker = patient_worker();
    let client = connect(&worker, false, None);
    worker.detach(&client, CloseReason::Eof);
    let clock = &worker.shared.clock;
    clock.shift(FIFTY_YEARS_MS, 59_000);
    clock.look(clock.shifted(BEGIN));
    assert_eq!(sessions_left(&worker), 1);
    clock.shift(0, 1500);
    assert_eq!(sessions_left(&worker), 0);
}

#[test]
fn what_passed_before_the_start_is_told_by_the_wall_clock() {
    for (offline_ms, left) in [(59_000, 1), (61_000, 0)] {
        let worker = patient_worker();
        let client = connect(&worker, false, None);
        worker.detach(&client, CloseReason::Eof);
        {
            let mut sessions = worker.sessions.borrow_mut();
            let (_, session) = sessions.slots.iter_mut().next().unwrap();
            let stored = StoredSession {
                id: 1,
                client_id: Arc::clone(&session.client_id),
                epoch: 1,
                disconnected_ms: Some(BEGIN.wall.ms() - offline_ms),
                subscriptions: Vec::new(),
                receipts: Vec::new(),
                queued: 0,
                queued_bytes: 0,
                last_sequence: 0,
                left: Default::default(),
            };
            worker.fill_session(session, &stored);
        }
        worker.shared.clock.shift(FIFTY_YEARS_MS, 0);
        assert_eq!(sessions_left(&worker), left);
    }
}

/// The stamps of sessions that are handed to the store in a turn.
fn stamped(worker: &Rc<Worker>) -> Vec<u64> {
    tick(worker);
    worker.restamp_sessions();
    let stamp = |op: &StoreOp| match op {
        StoreOp::Session(SessionOp::PutSession { disconnected_ms, .. }) => *disconnected_ms,
        other => panic!("{other:?}"),
    };
    store(worker).0.iter().filter_map(stamp).collect()
}

#[test]
fn a_session_that_was_offline_before_a_jump_is_not_expired_by_the_next_start() {
    let worker = patient_worker();
    let client = connect_as("offline", &worker, false, None);
    connect_as("clean", &worker, true, None);
    connect_as("connected", &worker, false, None);
    worker.detach(&client, CloseReason::Eof);
    store(&worker);
    assert_eq!(stamped(&worker), []);
    let clock = &worker.shared.clock;
    clock.shift(FIFTY_YEARS_MS, 20_000);
    clock.look(clock.shifted(BEGIN));
    assert_eq!(stamped(&worker), [], "by a time that may be the one before the jump");
    let stamps = stamped(&worker);
    assert_eq!(stamps.len(), 1);
    // The next start: its boot-time clock may begin anew.
    let next = crate::clock::Clock::new(BEGIN);
    next.shift(FIFTY_YEARS_MS + 1000, 0);
    let later = next.shifted(BEGIN);
    let offline_ms = next.at(later) - next.of_wall(later, stamps[0]);
    assert!((20_500..30_000).contains(&offline_ms), "{offline_ms} ms");
    // Once a jump.
    assert_eq!(stamped(&worker), []);
    clock.look(clock.shifted(BEGIN));
    assert_eq!(stamped(&worker), []);
    clock.shift(FIFTY_YEARS_MS, 0);
    clock.look(clock.shifted(BEGIN));
    assert_eq!(stamped(&worker), []);
    assert_eq!(stamped(&worker).len(), 1);
}

#[test]
fn many_stamps_are_written_in_turns_and_none_while_the_store_is_behind() {
    let mut settings = settings(1);
    settings.session.max_sessions = 1000;
    let worker = worker_with(settings);
    for n in 0..300 {
        let client = connect_as(&format!("c{n}"), &worker, false, None);
        worker.detach(&client, CloseReason::Eof);
        store(&worker);
    }
    worker.shared.clock.shift(FIFTY_YEARS_MS, 0);
    worker.shared.clock.look(now(&worker));
    let max = worker.shared.settings.storage.max_pending_bytes;
    worker.shared.parked_bytes.store(max, Ordering::Relaxed);
    assert_eq!(stamped(&worker), []);
    worker.shared.parked_bytes.store(0, Ordering::Relaxed);
    let turns: Vec<usize> = (0..6).map(|_| stamped(&worker).len()).collect();
    assert_eq!((turns[0], turns.iter().sum::<usize>()), (256, 300), "{turns:?}");
}

fn patient_worker() -> Rc<Worker> {
    let mut settings = settings(1);
    settings.session.expiry = 60 * SECOND;
    worker_with(settings)
}

/// A machine that slept for an hour has heard nothing from clients that had nothing to fear.
#[test]
fn a_keep_alive_does_not_run_while_the_machine_sleeps() {
    let worker = worker(1);
    let client = connect(&worker, true, None);
    client.keep_alive_s.set(10);
    let look = |ms| {
        worker.shared.clock.shift(ms, ms);
        tick(&worker);
        worker.check_timers(ready);
        client.phase().closing()
    };
    assert_eq!(look(250), None);
    assert_eq!((look(3_600_000), look(250)), (None, None));
    // 15 s of silence without the hour are over.
    let closed: Vec<_> = (0..60).filter_map(|_| look(250)).collect();
    assert!(!closed.is_empty() && closed.len() < 10, "{closed:?}");
    assert_eq!(closed[0], CloseReason::KeepAlive);
}
