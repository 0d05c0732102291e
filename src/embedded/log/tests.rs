//! Order, offsets, bounds, retention and the reports of the embedded log.

use std::collections::BTreeMap;

use super::super::suite;
use super::*;

fn options() -> LogOptions {
    LogOptions { cache_size: 1 << 20, batch_max_records: 100, ..LogOptions::default() }
}

/// A log whose reports are collected.
fn open(dir: &Path, options: LogOptions) -> (Arc<EmbeddedLog>, Arc<Mutex<Vec<Report>>>) {
    let log = EmbeddedLog::open(dir, "n1", options).unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reports);
    log.on_report(Box::new(move |more| sink.lock().extend(more)));
    (log, reports)
}

fn record(topic: &str, id: u64) -> LogRecord {
    LogRecord { id, ..suite::record(topic, id) }
}

fn append(log: &EmbeddedLog, records: Vec<LogRecord>) {
    assert!(log.append(records).is_empty());
    assert!(log.flush(Duration::from_secs(20)));
}

fn offsets(found: &[(u64, LogRecord)]) -> Vec<u64> {
    found.iter().map(|(offset, _)| *offset).collect()
}

#[test]
fn keeps_order_and_offsets_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3u64 {
        let (log, reports) = open(dir.path(), options());
        let from = round * 500;
        append(
            &log,
            (from..from + 500).flat_map(|id| [record("a", id), record("b", id)]).collect(),
        );
        let ids: Vec<_> = reports.lock().iter().map(|report| report.id).collect();
        assert_eq!(ids, (from..from + 500).flat_map(|id| [id, id]).collect::<Vec<_>>());
        assert!(reports.lock().iter().all(|report| report.result.is_ok()));
        for topic in ["a", "b"] {
            assert_eq!(
                (log.first_offset(topic).unwrap(), log.end_offset(topic).unwrap()),
                (Some(0), Some(from + 500))
            );
            let mut next = 0;
            while next < from + 500 {
                for (offset, found) in log.read(topic, next, 77, usize::MAX).unwrap() {
                    assert_eq!(offset, next);
                    assert_eq!(found, LogRecord { id: 0, ..suite::record(topic, next) });
                    next += 1;
                }
            }
        }
        assert_eq!(log.read("a", 5, 10, 1).unwrap().len(), 1);
        assert!(log.read("a", from + 500, 10, 9999).unwrap().is_empty());
        assert!(log.read("c", 0, 10, 9999).unwrap().is_empty());
        assert_eq!(log.end_offset("c").unwrap(), None);
    }
}

#[test]
fn groups_and_tails() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _reports) = open(dir.path(), options());
    let mut changes = log.subscribe();
    changes.mark_unchanged();
    append(&log, vec![record("a", 0)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let changed = async { tokio::time::timeout(Duration::from_secs(20), changes.changed()).await };
    runtime.block_on(changed).unwrap().unwrap();
    assert_eq!(log.committed("g", "a").unwrap(), None);
    log.commit("g", "a", 1).unwrap();
    log.commit("g", "b", 7).unwrap();
    assert!(matches!(log.commit("", "a", 1), Err(LogError::Refused(_))));
    drop(log);
    let (log, _reports) = open(dir.path(), options());
    assert_eq!(
        (log.committed("g", "a").unwrap(), log.committed("g", "b").unwrap()),
        (Some(1), Some(7))
    );
    assert_eq!(log.topics().unwrap(), [TopicInfo { name: "a".into(), first: 0, end: 1 }]);
}

#[test]
fn a_topic_too_many_is_refused_and_the_rest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (log, reports) = open(dir.path(), LogOptions { max_topics: 2, ..options() });
    append(&log, vec![record("a", 0), record("b", 1), record("c", 2), record("a", 3)]);
    let refused: Vec<_> =
        reports.lock().iter().map(|r| matches!(r.result, Err(LogError::Refused(_)))).collect();
    assert_eq!(refused, [false, false, true, false]);
    assert_eq!(offsets(&log.read("a", 0, 9, 9999).unwrap()), [0, 1]);
    assert_eq!(log.topics().unwrap().len(), 2);
}

#[test]
fn what_does_not_fit_is_given_back_and_every_record_is_reported_once() {
    let dir = tempfile::tempdir().unwrap();
    let cost = record("a", 1).cost();
    let (log, reports) =
        open(dir.path(), LogOptions { max_pending_bytes: 50 * cost + cost / 2, ..options() });
    let mut rest: Vec<_> = (0..2000).map(|_| record("a", 1)).collect();
    for (id, record) in rest.iter_mut().enumerate() {
        record.id = id as u64;
    }
    let mut given_back = false;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !rest.is_empty() {
        let before = rest.len();
        rest = log.append(rest);
        assert!(before - rest.len() <= 50);
        given_back |= !rest.is_empty();
        if before == 1000 || (before > 1000 && rest.len() <= 1000) {
            log.reset();
        }
        assert!(Instant::now() < deadline);
    }
    assert!(given_back && log.flush(Duration::from_secs(20)));
    let mut counts = BTreeMap::new();
    let mut stored = 0;
    for report in &*reports.lock() {
        *counts.entry(report.id).or_insert(0) += 1;
        stored += u64::from(report.result.is_ok());
    }
    assert!(counts.len() == 2000 && counts.values().all(|count| *count == 1));
    assert_eq!(log.end_offset("a").unwrap(), Some(stored));
    assert!(log.describe().contains("0 records outstanding"), "{}", log.describe());
    // Something larger than the bound is taken when nothing else is there.
    let large = LogRecord { payload: vec![7; 100 * cost].into(), ..record("a", 9) };
    append(&log, vec![large.clone()]);
    assert_eq!(log.read("a", stored, 1, 1).unwrap()[0].1.payload, large.payload);
}

#[test]
fn the_oldest_segment_goes_past_the_byte_bound_and_offsets_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { retention_bytes: 40_000, segment_bytes: 10_000, ..options() };
    let segments = Segments::open(dir.path(), "n1", &options, 1000).unwrap();
    let write = |segments: &Segments, topic: &str, from: u64| {
        let records: Vec<_> = (from..from + 20).map(|id| record(topic, id)).collect();
        segments.append(&records, &options, 1000).unwrap();
        while segments.sweep(&options, 1000).unwrap() {}
    };
    write(&segments, "once", 0);
    for round in 0..100 {
        write(&segments, "a", round * 20);
    }
    let check = |segments: &Segments| {
        let topic = segments.topic("a").unwrap();
        assert!(topic.end == 2000 && topic.first > 1000 && topic.first < 1900, "{topic:?}");
        let found = segments.read("a", 0, 9999, usize::MAX).unwrap();
        assert_eq!(offsets(&found), (topic.first..2000).collect::<Vec<_>>());
        assert_eq!(found[0].1, LogRecord { id: 0, ..suite::record("a", topic.first) });
        assert_eq!(
            segments.topic("once").unwrap(),
            TopicInfo { name: "once".into(), first: 20, end: 20 }
        );
    };
    check(&segments);
    drop(segments);
    let segments = Segments::open(dir.path(), "n1", &options, 1000).unwrap();
    check(&segments);
    write(&segments, "once", 20);
    assert_eq!(
        offsets(&segments.read("once", 0, 99, 99_999).unwrap()),
        (20..40).collect::<Vec<_>>()
    );
}

#[test]
fn records_past_their_age_go_also_in_an_idle_log() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { retention_age: Duration::from_secs(80), ..options() };
    let segments = Segments::open(dir.path(), "n1", &options, 0).unwrap();
    let mut now = 0;
    let mut tick = |segments: &Segments, ms: u64| {
        now += ms;
        while segments.sweep(&options, now).unwrap() {}
        now
    };
    for id in 0..20 {
        let now = tick(&segments, 5_000);
        segments.append(&[record("a", id)], &options, now).unwrap();
    }
    // 100 s: what is older than 80 s, and at most 10 s more of it, is there.
    let first = segments.topic("a").unwrap().first;
    assert!((1..=4).contains(&first), "{first}");
    tick(&segments, 60_000);
    let first = segments.topic("a").unwrap().first;
    assert!((13..=16).contains(&first), "{first}");
    tick(&segments, 200_000);
    assert_eq!(segments.topic("a").unwrap(), TopicInfo { name: "a".into(), first: 20, end: 20 });
}

#[test]
fn after_a_sync_with_company_as_many_are_gathered_and_after_one_alone_none() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { gather: Duration::from_secs(3600), ..options() };
    let log = EmbeddedLog::open(dir.path(), "n1", options).unwrap();
    let batches = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&batches);
    log.on_report(Box::new(move |more| sink.lock().push(more.len())));
    append(&log, vec![record("a", 0)]);
    append(&log, vec![record("a", 1)]);
    append(&log, vec![record("a", 2), record("a", 3)]);
    assert!(log.append(vec![record("a", 4)]).is_empty());
    assert!(!log.flush(Duration::from_millis(50)), "it waits for another");
    append(&log, vec![record("a", 5)]);
    assert_eq!(*batches.lock(), [1, 1, 2, 2]);
    // What ends the log does not wait.
    assert!(log.append(vec![record("a", 6)]).is_empty());
    drop(log);
    assert_eq!(*batches.lock(), [1, 1, 2, 2, 1]);
}

#[test]
fn a_record_larger_than_the_bound_is_taken_from_within_the_sink() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), "n1", LogOptions { max_pending_bytes: 1, ..options() })
        .unwrap();
    let given_back = Arc::new(Mutex::new(Vec::new()));
    let (again, rest) = (Arc::downgrade(&log), Arc::clone(&given_back));
    log.on_report(Box::new(move |reports| {
        let next = reports[0].id + 1;
        if let Some(log) = again.upgrade().filter(|_| next < 5) {
            rest.lock().extend(log.append(vec![record("a", next)]));
        }
    }));
    append(&log, vec![record("a", 0)]);
    assert!(given_back.lock().is_empty());
    assert_eq!(log.end_offset("a").unwrap(), Some(5));
}

#[test]
fn without_a_sync_or_after_a_failure_nothing_is_gathered() {
    let hour = Duration::from_secs(3600);
    let dir = tempfile::tempdir().unwrap();
    let unsynced = LogOptions { gather: hour, sync: SyncPolicy::Never, ..options() };
    let (log, _reports) = open(dir.path(), unsynced);
    append(&log, vec![record("a", 0), record("a", 1)]);
    append(&log, vec![record("a", 2)]);

    let dir = tempfile::tempdir().unwrap();
    let (log, reports) = open(dir.path(), LogOptions { gather: hour, ..options() });
    log.shared.queue.lock().failed = Some("away".into());
    append(&log, vec![record("a", 0), record("a", 1)]);
    append(&log, vec![record("a", 2)]);
    assert!(reports.lock().iter().all(|report| report.result.is_err()));
}
