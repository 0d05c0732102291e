//! Tests with `tests/support/unsynced.c` under the store and the log: what was acknowledged is there
//! after a power cut, and a full disk is survived.
//!
//! Each test runs itself once more as a child under the file layer (a C compiler is needed); the
//! child says on its standard output what was acknowledged.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hydrant_actors::ports::{
    LogError, LogOp, LogRecord, MessageLog as _, OutboxPosition, QueueEntry, Report, SessionOp,
    SessionStore, StoreError, StoreOp,
};
use hydrant_protocol::QoS;
use parking_lot::Mutex;

use super::{EmbeddedLog, EmbeddedStore, LogOptions, StoreOptions, SyncPolicy, suite};

const DIR: &str = "UNSYNCED_DIR";
/// Entries kept in queue and outbox behind the newest.
const KEPT: u64 = 100;
/// Records of one append.
const APPEND: u64 = 20;

/// A folder with the data, its shadow, and the compiled file layer.
struct Cut {
    _dir: tempfile::TempDir,
    library: PathBuf,
    data: PathBuf,
    shadow: PathBuf,
    full: PathBuf,
}

impl Cut {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (data, shadow) = (root.join("data"), root.join("shadow"));
        fs::create_dir(&data).unwrap();
        fs::create_dir(&shadow).unwrap();
        let library = root.join("unsynced.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/unsynced.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .status()
            .unwrap();
        assert!(compiled.success());
        Self { _dir: dir, library, data, shadow, full: root.join("full") }
    }

    /// Runs the test of this name again, under the file layer.
    fn child(&self, test: &str, sync: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args([&format!("embedded::power_cut::{test}"), "--exact", "--nocapture"])
            .env("LD_PRELOAD", &self.library)
            .env(DIR, &self.data)
            .env("UNSYNCED_SHADOW", &self.shadow)
            .env("UNSYNCED_FULL", &self.full)
            .env("UNSYNCED_SYNC", sync)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Lets the child acknowledge so many writes, kills it, and returns the highest acknowledged
    /// sequence of the store and end offset of the log.
    fn run_and_kill(&self, test: &str, sync: &str, acknowledgements: usize) -> (u64, u64) {
        let mut child = self.child(test, sync);
        let mut acknowledged = (0, 0);
        for (count, line) in BufReader::new(child.stdout.take().unwrap()).lines().enumerate() {
            let line = line.unwrap();
            if let Some(sequence) = line.strip_prefix("stored ") {
                acknowledged.0 = sequence.parse().unwrap();
            } else if let Some(end) = line.strip_prefix("logged ") {
                acknowledged.1 = end.parse().unwrap();
            }
            if count == acknowledgements {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged.0 > 0 && acknowledged.1 > 0, "the child died early: {acknowledged:?}");
        acknowledged
    }

    /// Puts what was synced in the place of what was written.
    fn cut_power(&self) {
        fs::remove_dir_all(&self.data).unwrap();
        fs::rename(&self.shadow, &self.data).unwrap();
        let copied =
            Command::new("cp").arg("-a").args([&self.data, &self.shadow]).status().unwrap();
        assert!(copied.success());
    }
}

fn store_options(sync: SyncPolicy) -> StoreOptions {
    StoreOptions { sync, bucket_entries: 200, cache_size: 1 << 20, journal_max_size: 0 }
}

fn log_options(sync: SyncPolicy) -> LogOptions {
    LogOptions {
        sync,
        segment_bytes: 4 << 20,
        retention_bytes: 64 << 20,
        journal_max_size: 0,
        ..LogOptions::default()
    }
}

fn open(data: &Path, sync: SyncPolicy) -> (Arc<EmbeddedStore>, Arc<EmbeddedLog>) {
    let store = EmbeddedStore::open(&data.join("store"), "n1", store_options(sync)).unwrap();
    let log = EmbeddedLog::open(&data.join("log"), "n1", log_options(sync)).unwrap();
    (store, log)
}

fn entry(sequence: u64) -> QueueEntry {
    let message = suite::message("t", &format!("{sequence} ").repeat(5000), false);
    QueueEntry { sequence, qos: QoS::AtLeastOnce, retain: false, message, outgoing: None }
}

fn record(id: u64) -> LogRecord {
    LogRecord { id, payload: format!("{id} ").repeat(500).into(), ..suite::record("t", id) }
}

/// Sequence `n` comes with outbox position `n - 1`; what lies [`KEPT`] behind goes.
fn ops(sequence: u64) -> Arc<Vec<StoreOp>> {
    let position = OutboxPosition { lane: 0, position: sequence - 1 };
    Arc::new(vec![
        SessionOp::PutSession {
            id: 1,
            client_id: "c".into(),
            epoch: sequence,
            disconnected_ms: None,
        }
        .into(),
        SessionOp::PutQueued { id: 1, entry: entry(sequence) }.into(),
        LogOp::PutOutbox { record: record(sequence - 1), position }.into(),
        SessionOp::DeleteQueued { id: 1, sequence: sequence.saturating_sub(KEPT) }.into(),
        LogOp::MoveCursor { lane: 0, position: sequence.saturating_sub(KEPT) }.into(),
    ])
}

/// The highest sequence of the store and the end of the log, once both were found whole: no
/// entry between is missing, and each is what was written.
fn check(data: &Path) -> (u64, u64) {
    let (store, log) = open(data, SyncPolicy::Always);
    let sessions = suite::wait(store.sessions());
    let last = sessions.first().map_or(0, |session| session.last_sequence);
    if last > 0 {
        let first = last.saturating_sub(KEPT) + 1;
        let queue = suite::wait(store.read_queue(1, 0, 1000, usize::MAX));
        assert!(queue == (first..=last).map(entry).collect::<Vec<_>>(), "queue {first} to {last}");
        let lane = suite::wait(store.lanes())[0];
        assert_eq!((sessions[0].epoch, lane.cursor, lane.end), (last, first - 1, last));
        let records = suite::wait(store.read_outbox(0, lane.cursor, 1000, usize::MAX));
        assert_eq!(records.len() as u64, lane.end - lane.cursor);
        for (found, position) in records.into_iter().zip(lane.cursor..) {
            let outbox = Some(OutboxPosition { lane: 0, position });
            assert!(found == LogRecord { outbox, ..record(position) }, "outbox {position}");
        }
    }
    let end = log.end_offset("t").unwrap().unwrap_or(0);
    let mut next = log.first_offset("t").unwrap().unwrap_or(0);
    while next < end {
        for (offset, found) in log.read("t", next, 500, usize::MAX).unwrap() {
            assert!(offset == next && found == LogRecord { id: 0, ..record(offset) }, "log {next}");
            next += 1;
        }
    }
    (last, end)
}

/// What the child does: goes on writing from where it finds itself.
fn write_for_ever(data: &Path, sync: SyncPolicy) -> ! {
    let (store, log) = open(data, sync);
    let mut sequence =
        suite::wait(store.sessions()).first().map_or(0, |session| session.last_sequence);
    let mut end = log.end_offset("t").unwrap().unwrap_or(0);
    let say = |what: &str, number: u64| writeln!(std::io::stdout(), "{what} {number}").unwrap();
    loop {
        sequence += 1;
        suite::wait(store.write(ops(sequence)));
        say("stored", sequence);
        assert!(log.append((end..end + APPEND).map(record).collect()).is_empty());
        assert!(log.flush(Duration::from_secs(20)));
        end += APPEND;
        say("logged", end);
    }
}

fn child_mode() -> Option<(PathBuf, SyncPolicy)> {
    let data = PathBuf::from(std::env::var_os(DIR)?);
    let sync = if std::env::var("UNSYNCED_SYNC").unwrap() == "never" {
        SyncPolicy::Never
    } else {
        SyncPolicy::Always
    };
    Some((data, sync))
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    if let Some((data, sync)) = child_mode() {
        write_for_ever(&data, sync);
    }
    let cut = Cut::new();
    // Few acknowledgements, and enough to flush tables, drop buckets and segments.
    for acknowledgements in [5, 500, 2600, 40] {
        let acknowledged = cut.run_and_kill(
            "what_was_acknowledged_survives_a_power_cut",
            "always",
            acknowledgements,
        );
        cut.cut_power();
        let found = check(&cut.data);
        assert!(
            found.0 >= acknowledged.0 && found.1 >= acknowledged.1,
            "{found:?}, acknowledged {acknowledged:?}"
        );
        // The check itself has written (opening truncates journals); the shadow begins anew.
        fs::remove_dir_all(&cut.shadow).unwrap();
        let copied = Command::new("cp").arg("-a").args([&cut.data, &cut.shadow]).status().unwrap();
        assert!(copied.success());
    }
}

/// The control: without sync the same test does find loss.
#[test]
fn without_sync_a_power_cut_loses_what_was_acknowledged() {
    if let Some((data, sync)) = child_mode() {
        write_for_ever(&data, sync);
    }
    let cut = Cut::new();
    let acknowledged =
        cut.run_and_kill("without_sync_a_power_cut_loses_what_was_acknowledged", "never", 300);
    cut.cut_power();
    let found = check(&cut.data);
    assert!(
        found.0 < acknowledged.0 && found.1 < acknowledged.1,
        "{found:?}, acknowledged {acknowledged:?}"
    );
}

fn survive_a_full_disk(data: &Path, full: &Path) {
    let (store, log) = open(data, SyncPolicy::Always);
    let reports = Arc::new(Mutex::new(Vec::<Report>::new()));
    let sink = Arc::clone(&reports);
    log.on_report(Box::new(move |more| sink.lock().extend(more)));
    let append = |from: u64| {
        reports.lock().clear();
        assert!(log.append((from..from + APPEND).map(record).collect()).is_empty());
        assert!(log.flush(Duration::from_secs(20)));
        let ok = reports.lock().iter().filter(|report| report.result.is_ok()).count() as u64;
        assert!(reports.lock().len() as u64 == APPEND && (ok == 0 || ok == APPEND));
        ok > 0
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let write = |sequence| runtime.block_on(store.write(ops(sequence)));
    for sequence in 1..=20 {
        write(sequence).unwrap();
    }
    assert!(append(0));
    fs::write(full, "").unwrap();
    for _ in 0..3 {
        assert!(matches!(write(21), Err(StoreError::Unavailable(_))));
        assert!(!append(APPEND));
        log.reset();
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(store.describe().contains("closed"), "{}", store.describe());
    assert!(matches!(log.read("t", 0, 1, 1), Err(LogError::Unavailable(_)) | Ok(_)));
    fs::remove_file(full).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while write(21).is_err() {
        assert!(Instant::now() < deadline);
    }
    while !append(APPEND) {
        log.reset();
        assert!(Instant::now() < deadline);
    }
    write(22).unwrap();
    assert_eq!(suite::wait(store.read_queue(1, 0, 99, usize::MAX)).len(), 22);
}

#[test]
fn a_full_disk_is_unavailable_until_there_is_space() {
    if let Some((data, _)) = child_mode() {
        survive_a_full_disk(&data, Path::new(&std::env::var_os("UNSYNCED_FULL").unwrap()));
        return;
    }
    let cut = Cut::new();
    let output = cut
        .child("a_full_disk_is_unavailable_until_there_is_space", "always")
        .wait_with_output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(check(&cut.data), (22, 2 * APPEND));
    cut.cut_power();
    assert_eq!(check(&cut.data), (22, 2 * APPEND));
}
