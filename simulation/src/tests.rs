//! Histories.

use hydrant_engine::plants::{Plant, plant};

use super::*;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Plays these, or the one of `HYDRANT_SEED`; the first that breaks something is printed.
fn play(seeds: u64, nodes: usize, kinds: Kinds) -> Counts {
    let one = number("HYDRANT_SEED");
    let mut counts = Counts::default();
    for seed in one.map_or(0..number("HYDRANT_SEEDS").unwrap_or(seeds), |one| one..one + 1) {
        let outcome = simulate(seed, nodes, kinds, one.is_some());
        counts.add(&outcome.counts);
        if one.is_some() {
            outcome.trace.iter().for_each(|line| eprintln!("{line:.6000}"));
            eprintln!("{:?}", outcome.counts);
        }
        if let Some(failure) = outcome.failure {
            let trace = simulate(seed, nodes, kinds, true).trace;
            trace[trace.len().saturating_sub(60)..]
                .iter()
                .for_each(|line| eprintln!("{line:.400}"));
            panic!("seed {seed}: {failure:.2000}");
        }
    }
    counts
}

/// Clients go from node to node, and change what they are subscribed to.
const BUSY: Kinds = Kinds { roam: true, churn: true, ..Kinds::NONE };

#[test]
fn one_node_without_faults() {
    play(100, 1, Kinds { churn: true, ..Kinds::NONE });
}

#[test]
fn three_nodes_without_faults() {
    let counts = play(100, 3, BUSY);
    assert!(counts.takes > 100 && counts.roams > 300 && counts.churns > 50, "{counts:?}");
}

#[test]
fn a_slow_network_and_links_that_break() {
    let counts = play(100, 3, Kinds { links: true, slow: true, ..BUSY });
    assert!(counts.cuts > 10 && counts.partitions > 5, "{counts:?}");
}

#[test]
fn a_store_that_fails() {
    let counts = play(100, 3, Kinds { lossy_store: true, ..BUSY });
    assert!(counts.store_failures > 100, "{counts:?}");
}

/// One process is lost, stopped or cut off, among clients that leave wills and retained messages.
const ONE: Kinds = Kinds { one_loss: true, wills: true, retained: true, log: true, ..BUSY };

#[test]
fn wills_and_retained_messages_with_links_that_break() {
    let kinds = Kinds { one_loss: false, links: true, lossy_store: true, ..ONE };
    let counts = play(100, 3, kinds);
    assert!(counts.wills > 200 && counts.retained > 200, "{counts:?}");
}

/// At QoS 2 a session that leaves a node which dies can lose a message (docs/cluster.md): see the next test.
#[test]
fn a_process_that_is_gone_among_clients_that_move() {
    let counts = play(100, 3, Kinds { crash: true, no_exact: true, ..ONE });
    assert!(counts.crashes > 10 && counts.seals > 2, "{counts:?}");
}

#[test]
fn a_process_that_is_gone() {
    let counts = play(100, 3, Kinds { crash: true, roam: false, ..ONE });
    assert!(counts.crashes > 10 && counts.seals > 2, "{counts:?}");
}

#[test]
fn a_process_that_stands_still() {
    let counts = play(100, 3, Kinds { pause: true, ..ONE });
    assert!(counts.pauses > 10, "{counts:?}");
}

#[test]
fn a_node_that_nobody_reaches() {
    let counts = play(100, 3, Kinds { isolate: true, ..ONE });
    assert!(counts.isolations > 10, "{counts:?}");
}

/// Few: in seed 44 a node expects a session for ever (docs/cluster.md, "Not yet").
#[test]
fn a_node_without_a_store() {
    let counts = play(40, 3, Kinds { no_store: true, ..ONE });
    assert!(counts.no_store > 10 && counts.withdrawn > 2, "{counts:?}");
}

#[test]
fn a_node_that_stops_in_order_and_starts_at_once() {
    let counts = play(100, 3, Kinds { restart: true, ..ONE });
    assert!(counts.stops > 10, "{counts:?}");
}

/// In seed 200 a node takes a lost one over before it has heard from the third: the wills wait.
#[test]
fn all_nodes_start_anew_or_one_stays_away() {
    let counts = play(250, 3, Kinds { cold: true, away: true, roam: false, ..ONE });
    assert!(counts.cold_starts > 3 && counts.away > 3, "{counts:?}");
}

#[test]
fn a_log_that_fails() {
    let kinds = Kinds { log: true, churn: true, ..Kinds::NONE };
    let mut counts = play(100, 3, kinds);
    counts.add(&play(100, 1, Kinds { lossy_store: true, ..kinds }));
    assert!(counts.records > 5000 && counts.log_failures > 50, "{counts:?}");
}

#[test]
fn one_node_that_is_killed() {
    let counts = play(
        100,
        1,
        Kinds { crash: true, lossy_store: true, wills: true, churn: true, ..Kinds::NONE },
    );
    assert!(counts.crashes > 10, "{counts:?}");
}

#[test]
fn a_seed_is_one_history() {
    for seed in 0..5 {
        let kinds = Kinds { links: true, crash: true, ..ONE };
        let hashes = [(); 2].map(|()| simulate(seed, 3, kinds, false).hash);
        assert_eq!(hashes[0], hashes[1], "{seed}");
    }
}

/// A mistake is found in one of the first thousand histories, which is in order without it.
fn found(mistake: Plant, nodes: usize, kinds: Kinds, what: &[&str]) {
    for seed in 0..1000 {
        plant(mistake);
        let failure = simulate(seed, nodes, kinds, false).failure;
        plant(Plant::None);
        let Some(failure) = failure else { continue };
        if simulate(seed, nodes, kinds, false).failure.is_some() {
            continue;
        }
        assert!(what.iter().any(|what| failure.contains(what)), "{mistake:?}, {seed}: {failure}");
        return;
    }
    panic!("{mistake:?} is not found");
}

const LOST: &str = "has not come to";
const TWICE: &str = "twice";
const OPEN: &str = "does not come to an end";

#[test]
fn fencing_that_is_off_is_found() {
    let kinds = Kinds { pause: true, ..BUSY };
    found(Plant::NoFencing, 3, kinds, &["is written by"]);
}

#[test]
fn an_acknowledgement_before_the_stores_is_found() {
    found(Plant::EarlyAcknowledgement, 3, Kinds { lossy_store: true, ..BUSY }, &[LOST, OPEN]);
}

#[test]
fn a_failure_that_counts_as_done_is_found() {
    found(Plant::FailureIsDone, 3, Kinds { lossy_store: true, ..BUSY }, &[LOST, OPEN]);
}

#[test]
fn a_cursor_past_a_hole_is_found() {
    let kinds = Kinds { crash: true, links: true, slow: true, ..BUSY };
    found(Plant::PastHoles, 3, kinds, &[LOST]);
}

#[test]
fn a_successor_that_queues_again_what_was_stored_is_found() {
    found(Plant::SuccessorDoubles, 3, Kinds { crash: true, ..BUSY }, &[TWICE]);
}

#[test]
fn markers_that_are_ignored_are_found() {
    found(Plant::NoMarkers, 3, Kinds { slow: true, ..BUSY }, &[TWICE, LOST, "order"]);
}

/// The faults that `HYDRANT_KINDS` names.
#[test]
#[ignore = "for exploring"]
fn explore() {
    let kinds = std::env::var("HYDRANT_KINDS").unwrap_or_default();
    let has = |kind: &str| kinds.split(',').any(|it| it == kind || it == "all");
    let kinds = Kinds {
        crash: has("crash"),
        pause: has("pause"),
        isolate: has("isolate"),
        no_store: has("no_store"),
        links: has("links"),
        slow: has("slow"),
        restart: has("restart"),
        cold: has("cold"),
        lossy_store: has("lossy"),
        one_loss: has("one"),
        away: has("away"),
        wills: has("wills"),
        retained: has("retained"),
        log: has("log"),
        no_exact: has("no_exact"),
        roam: has("roam"),
        churn: has("churn"),
    };
    let nodes = number("HYDRANT_NODES").unwrap_or(3) as usize;
    let (mut failed, seeds) = (0, number("HYDRANT_SEEDS").unwrap_or(100));
    if number("HYDRANT_SEED").is_some() {
        play(1, nodes, kinds);
        return;
    }
    for seed in 0..seeds {
        let outcome = simulate(seed, nodes, kinds, false);
        if let Some(failure) = outcome.failure {
            failed += 1;
            eprintln!("seed {seed}: {failure:.300}");
        }
    }
    eprintln!("{failed} of {seeds} failed");
}
