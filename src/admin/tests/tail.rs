//! `broker tail`: what is printed, from where, and what a group commits.

use std::io::{self, Write};
use std::sync::mpsc;

use super::*;

fn request(group: Option<&str>, from_start: bool, count: Option<u64>) -> TailRequest {
    TailRequest { topic: "t".to_owned(), group: group.map(str::to_owned), from_start, count }
}

fn running(log: &Arc<FakeLog>) -> Running {
    Running::start(Fake { log: Some(log.clone()), ..Fake::new() }, AdminLimits::default())
}

/// Lines printed and notes of a tail that ends.
fn tail(running: &Running, request: &TailRequest) -> (Vec<String>, String) {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    client::tail(running.dir(), request, &mut out, &mut notes).unwrap();
    let lines = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    (lines, String::from_utf8(notes).unwrap())
}

fn payloads(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.rsplit('\t').next().unwrap()).collect()
}

#[test]
fn a_record_is_one_line() {
    let log = FakeLog::new();
    log.append("t", "grün".as_bytes());
    log.append("t", b"a\nb\t\x1b[2J\xff\\ \xe2\x80\xae");
    let (lines, notes) = tail(&running(&log), &request(None, true, Some(2)));
    assert_eq!(lines[0], "0\t2023-11-14T22:13:20.123Z\t42\tdevice/42/thermo\tgrün");
    assert_eq!(
        lines[1],
        "1\t2023-11-14T22:13:20.123Z\t42\tdevice/42/thermo\ta\\nb\\t\\u{1b}[2J\\xff\\\\ \\u{202e}"
    );
    assert_eq!(notes, "");
    let odd = TailRow { key: None, timestamp_ms: i64::MAX, ..TailRow::default() };
    assert_eq!(render::record(&odd), format!("0\t{}ms\t-\t\t", i64::MAX));
    assert_eq!(
        render::record(&TailRow { key: Some(b"-".to_vec()), ..odd }).split('\t').nth(2),
        Some("\\x2d")
    );
}

#[test]
fn many_records_come_in_order_and_once() {
    let log = FakeLog::new();
    for i in 0..3_000 {
        log.append("t", format!("{i}").as_bytes());
    }
    log.append("u", b"another topic's");
    let (lines, _) = tail(&running(&log), &request(None, true, Some(2_500)));
    let expected: Vec<String> = (0..2_500).map(|i| i.to_string()).collect();
    assert_eq!(payloads(&lines), expected);
}

/// Passes on what is written, so that a test sees it while the tail goes on.
struct Pipe(mpsc::Sender<String>);
impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        self.0.send(text).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_tail_follows_and_ends_with_its_output() {
    let log = FakeLog::new();
    let running = running(&log);
    let (out, printed) = mpsc::channel();
    let (notes, noted) = mpsc::channel();
    std::thread::scope(|scope| {
        let dir = running.dir();
        let tail = scope.spawn(move || {
            client::tail(dir, &request(None, false, None), &mut Pipe(out), &mut Pipe(notes))
        });
        let wait = Duration::from_secs(20);
        let note = noted.recv_timeout(wait).unwrap();
        assert!(note.starts_with("there is no record of t yet"), "{note}");
        log.append("u", b"not this one");
        for i in 0..20 {
            log.append("t", format!("live {i}").as_bytes());
            let line = printed.recv_timeout(wait).unwrap();
            assert!(line.ends_with(&format!("live {i}\n")), "{line}");
        }
        drop(printed); // `| head`
        log.append("t", b"nobody reads this");
        tail.join().unwrap().unwrap();
    });
    eventually("the node's end of the tail is gone", || log.changed.receiver_count() == 0);
}

#[test]
fn a_client_that_goes_away_ends_its_tail() {
    let log = FakeLog::new();
    let running = running(&log);
    let mut stream = std::os::unix::net::UnixStream::connect(socket_path(running.dir())).unwrap();
    stream.write_all(b"{\"request\":\"tail\",\"topic\":\"t\"}\n").unwrap();
    eventually("the tail runs", || log.changed.receiver_count() == 1);
    drop(stream);
    eventually("the tail is gone", || log.changed.receiver_count() == 0);
}

#[test]
fn a_group_goes_on_where_it_printed() {
    let log = FakeLog::new();
    log.append("t", b"before");
    let running = running(&log);
    let group = |count| request(Some("g"), true, Some(count));
    assert_eq!(payloads(&tail(&running, &group(1)).0), ["before"]);
    assert_eq!(log.committed("g", "t"), Some(1));
    for i in 1..5 {
        log.append("t", format!("{i}").as_bytes());
    }
    // Output that fails is not committed.
    let (out, printed) = mpsc::channel();
    drop(printed);
    client::tail(running.dir(), &group(4), &mut Pipe(out), &mut Vec::new()).unwrap();
    assert_eq!(log.committed("g", "t"), Some(1));
    assert_eq!(payloads(&tail(&running, &group(2)).0), ["1", "2"]);
    assert_eq!(payloads(&tail(&running, &group(2)).0), ["3", "4"]);
    assert_eq!(log.committed("g", "t"), Some(5));
    // Another group is not touched, and begins where the first record is.
    assert_eq!(payloads(&tail(&running, &request(Some("h"), true, Some(1))).0), ["before"]);
}

#[test]
fn a_new_group_misses_nothing_after_its_first_start() {
    let log = FakeLog::new();
    log.append("t", b"old");
    let running = running(&log);
    let mut stream = std::os::unix::net::UnixStream::connect(socket_path(running.dir())).unwrap();
    stream.write_all(b"{\"request\":\"tail\",\"topic\":\"t\",\"group\":\"g\"}\n").unwrap();
    eventually("its start is committed", || log.committed("g", "t") == Some(1));
    drop(stream);
    log.append("t", b"between");
    assert_eq!(payloads(&tail(&running, &request(Some("g"), false, Some(1))).0), ["between"]);
}

#[test]
fn what_retention_took_is_said() {
    let log = FakeLog::new();
    for i in 0..10 {
        log.append("t", format!("{i}").as_bytes());
    }
    log.commit("g", "t", 2).unwrap();
    log.trim(6);
    let running = running(&log);
    let (lines, notes) = tail(&running, &request(Some("g"), false, Some(1)));
    assert_eq!(
        (payloads(&lines), notes.trim()),
        (vec!["6"], "offsets 2 to 5 of t are gone (log retention)")
    );
    log.commit("g", "t", 99).unwrap();
    let (lines, notes) = tail(&running, &request(Some("g"), false, Some(1)));
    assert_eq!(payloads(&lines), ["6"]);
    assert!(notes.contains("99 is past the end 10"), "{notes}");
}

#[test]
fn no_log_too_many_tails_and_nonsense_are_clear_errors() {
    let none = Running::start(Fake::new(), AdminLimits::default());
    let error =
        client::tail(none.dir(), &request(None, true, Some(1)), &mut Vec::new(), &mut Vec::new())
            .unwrap_err();
    assert!(error.to_string().contains("this node has no embedded log"), "{error}");
    assert!(error.to_string().contains("kcat"), "{error}");

    let log = FakeLog::new();
    let limits = AdminLimits { tails: 1, ..AdminLimits::default() };
    let running = Running::start(Fake { log: Some(log.clone()), ..Fake::new() }, limits);
    let error = client::tail(
        running.dir(),
        &request(None, true, Some(0)),
        &mut Vec::new(),
        &mut Vec::new(),
    );
    assert!(error.unwrap_err().to_string().contains("must not be empty or 0"));
    let mut stream = std::os::unix::net::UnixStream::connect(socket_path(running.dir())).unwrap();
    stream.write_all(b"{\"request\":\"tail\",\"topic\":\"t\"}\n").unwrap();
    eventually("the tail runs", || log.changed.receiver_count() == 1);
    let error = client::tail(
        running.dir(),
        &request(None, true, Some(1)),
        &mut Vec::new(),
        &mut Vec::new(),
    );
    assert!(error.unwrap_err().to_string().starts_with("1 tails are running already"));
    client::status(running.dir()).unwrap();
}
