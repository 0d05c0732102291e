//! A thousand histories, and that each mistake shows in one of so many.
//!
//! `HYDRANT_SEEDS=10000` has more of them; `HYDRANT_SEED=7` repeats one and prints what happened.

use std::sync::atomic::{AtomicU64, Ordering};

use super::world::Counts;
use super::{Mistake, Outcome, simulate};

/// Histories in the unit tests, and what a mistake has to be found in.
const SEEDS: u64 = 1000;
/// The end of a history that is printed when it breaks something.
const LINES: usize = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The first of the seeds whose history breaks something, and what; on all cores.
fn first_broken(seeds: u64, mistake: Mistake) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let work = || {
        let mut broken = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.min(found.load(Ordering::Relaxed)) {
                return broken;
            }
            if let Some(failure) = simulate(seed, mistake, false).failure {
                found.fetch_min(seed, Ordering::Relaxed);
                broken.get_or_insert((seed, failure));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).min()
    })
}

fn print(trace: &[String]) {
    trace.iter().for_each(|line| eprintln!("{line:.400}"));
}

#[test]
fn no_history_breaks_what_holds() {
    if let Some(seed) = number("HYDRANT_SEED") {
        let Outcome { failure, trace, counts } = simulate(seed, Mistake::None, true);
        print(&trace);
        eprintln!("seed {seed}: {counts:?}");
        assert_eq!(failure, None, "seed {seed}");
        return;
    }
    let seeds = number("HYDRANT_SEEDS").unwrap_or(SEEDS);
    if let Some((seed, failure)) = first_broken(seeds, Mistake::None) {
        let Outcome { trace, .. } = simulate(seed, Mistake::None, true);
        print(&trace[trace.len().saturating_sub(LINES)..]);
        panic!(
            "seed {seed}: {failure:.2000}\nHYDRANT_SEED={seed} cargo test -p hydrant-protocol no_history repeats it and prints all of it"
        );
    }
}

#[test]
fn a_seed_is_one_history() {
    for seed in [1, 5, 11] {
        let histories = [(); 2].map(|()| simulate(seed, Mistake::None, true).trace);
        assert!(histories[0].len() > 100 && histories[0] == histories[1], "{seed}");
    }
}

#[test]
fn the_histories_have_what_they_are_for() {
    let mut all = Counts::default();
    for seed in 0..30 {
        let Counts { events, acknowledged, attempts, takes, seals, crashes, exits, cuts } =
            simulate(seed, Mistake::None, false).counts;
        all.events += events;
        all.acknowledged += acknowledged;
        all.attempts += attempts;
        all.takes += takes;
        all.seals += seals;
        all.crashes += crashes;
        all.exits += exits;
        all.cuts += cuts;
    }
    assert!(all.events > 50_000 && all.acknowledged > 1000, "{all:?}");
    assert!(all.attempts > 100 && all.takes > 200 && all.seals > 5, "{all:?}");
    assert!(all.crashes > 20 && all.exits > 5 && all.cuts > 5, "{all:?}");
}

/// Within a thousand histories, what kind of thing is broken.
fn found(mistake: Mistake, kinds: &[&str]) {
    let Some((seed, failure)) = first_broken(SEEDS, mistake) else {
        panic!("{mistake:?} is not found");
    };
    let is = kinds.iter().any(|kind| failure.contains(kind));
    assert!(is, "{mistake:?}, seed {seed}: {failure:.2000}");
}

const LOST: &str = "has not come to";
const TWICE: &str = "twice";

#[test]
fn fencing_that_is_off_is_found() {
    found(Mistake::NoFencing, &["is written by"]);
}

#[test]
fn deduplication_that_is_off_is_found() {
    found(Mistake::NoDeduplication, &[TWICE]);
}

#[test]
fn a_successor_that_queues_again_what_was_stored_is_found() {
    found(Mistake::SuccessorDoubles, &[TWICE]);
}

#[test]
fn an_acknowledgement_before_the_stores_is_found() {
    found(Mistake::EarlyAcknowledgement, &[LOST]);
}

#[test]
fn a_cursor_past_a_hole_is_found() {
    found(Mistake::PastHoles, &[LOST]);
}

#[test]
fn markers_that_are_ignored_are_found() {
    found(Mistake::NoMarkers, &[TWICE, LOST]);
}

#[test]
fn a_source_that_forgets_too_early_is_found() {
    found(Mistake::SourceForgets, &[LOST]);
}
