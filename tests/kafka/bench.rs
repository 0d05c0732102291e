//! How fast the adapter alone is: `cargo test --release --features servers --test kafka -- \
//! --ignored --nocapture adapter_throughput`. Not a test: it asserts nothing about time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hydrant::kafka::KafkaLog;
use hydrant_actors::ports::{LogRecord, MessageLog};

use crate::driver::{options, record};
use crate::support::kafka::Kafka;

/// User and system time of a process, from /proc in ticks of 10 ms.
fn cpu_seconds(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc");
    let (_, rest) = stat.rsplit_once(')').expect("a stat line");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks");
    (ticks(11) + ticks(12)) / 100.0
}

#[test]
#[ignore = "a measurement"]
fn adapter_throughput() {
    const RECORDS: u64 = 2_000_000;
    let kafka = Kafka::start();
    let mut options = options(&kafka.address());
    options.partitions = 12;
    let log = Arc::new(KafkaLog::start(options, "n1").expect("the log starts"));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let batches = Arc::new(AtomicU64::new(0));
    let (sum, count) = (acknowledged.clone(), batches.clone());
    log.on_report(Box::new(move |batch| {
        assert!(batch.iter().all(|report| report.result.is_ok()));
        sum.fetch_add(batch.len() as u64, Ordering::Release);
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let keys: Vec<LogRecord> = (0..5_000)
        .map(|id| {
            let mut record = record(
                0,
                "bench",
                Some(&format!("device-{id:04}")),
                "",
                &format!("device-{id:04}"),
            );
            record.payload = Bytes::from(format!("{id:064}"));
            record
        })
        .collect();
    let make = |ids: std::ops::Range<u64>| -> Vec<LogRecord> {
        ids.map(|id| LogRecord { id, sequence: id / 5_000, ..keys[(id % 5_000) as usize].clone() })
            .collect()
    };
    for round in 0..4 {
        acknowledged.store(0, Ordering::Release);
        batches.store(0, Ordering::Relaxed);
        let (start, ours, theirs) =
            (Instant::now(), cpu_seconds("self"), cpu_seconds(&kafka.pid().to_string()));
        let mut next = 0;
        let mut back: Vec<LogRecord> = Vec::new();
        while next < RECORDS || !back.is_empty() {
            if back.is_empty() {
                back = make(next..next + 500);
                next += 500;
            }
            back = log.append(back);
            if !back.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(log.flush(Duration::from_secs(60)));
        assert_eq!(acknowledged.load(Ordering::Acquire), RECORDS);
        let seconds = start.elapsed().as_secs_f64();
        let per = |cpu: f64| cpu / RECORDS as f64 * 1e6;
        eprintln!(
            "round {round}: {:.0} records/s acknowledged; CPU a record: ours {:.2} us, Kafka's {:.2} us; {:.0} reports a batch",
            RECORDS as f64 / seconds,
            per(cpu_seconds("self") - ours),
            per(cpu_seconds(&kafka.pid().to_string()) - theirs),
            RECORDS as f64 / batches.load(Ordering::Relaxed).max(1) as f64,
        );
    }
}
