//! The HTTP port: what it answers, and what it does not suffer from.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use hydrant_actors::metrics::{CloseReason, DropReason};

use super::*;

/// Sends `bytes` and reads to the end of the connection; a reset counts as the end.
fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(bytes); // it may close before it has read everything
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("neither answered nor closed")
        }
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = exchange(address, format!("GET {path} HTTP/1.1\r\nHost: n1\r\n\r\n").as_bytes());
    let code = answer.split(' ').nth(1).expect("a status line").parse().unwrap();
    (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// Series and value of every sample; checks the shape of every line.
fn parse(text: &str) -> Vec<(String, f64)> {
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.pop(), Some("# EOF"));
    let (mut families, mut family, mut seen, mut samples) =
        (HashSet::new(), String::new(), HashSet::new(), vec![]);
    for line in lines {
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let (kind, name, rest) =
                (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            match kind {
                "HELP" => {
                    assert!(families.insert(name.to_owned()), "family twice: {name}");
                    family = name.to_owned();
                }
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram", "info"].contains(&rest), "{line}")
                }
                "UNIT" => assert!(name.ends_with(rest), "{line}"),
                _ => panic!("{line}"),
            }
            assert_eq!(name, family);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a sample");
        let name = series.split('{').next().unwrap();
        let suffix = name
            .strip_prefix(family.as_str())
            .unwrap_or_else(|| panic!("{line} is not of {family}"));
        assert!(["", "_total", "_info", "_sum", "_count", "_bucket"].contains(&suffix), "{line}");
        assert!(name.starts_with("hydrant_") || name.starts_with("process_"), "{line}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let inner = labels
                .strip_prefix('{')
                .and_then(|l| l.strip_suffix('}'))
                .expect("labels in braces");
            for label in inner.split(',') {
                let (_, value) = label.split_once('=').unwrap();
                assert!(
                    value.len() > 2 && value.starts_with('"') && value.ends_with('"'),
                    "{line}"
                );
            }
        }
        assert!(seen.insert(series.to_owned()), "series twice: {series}");
        samples.push((series.to_owned(), value.parse().unwrap()));
    }
    samples
}

#[test]
fn metrics_are_whole_and_well_formed() {
    let node = Fake::new();
    let m = node.metrics();
    m.workers[0].publishes_in[1].add(5);
    m.workers[1].publishes_in[1].add(6);
    m.workers[1].drop_messages(DropReason::Offline, 9, format_args!("c1"));
    m.workers[0].close(CloseReason::KeepAlive);
    m.workers[0].acks[2].add(4);
    m.workers[0].bytes_in.add(1_000);
    m.workers[0].ack_latency.record(Duration::from_micros(300));
    m.workers[1].ack_latency.record(Duration::from_secs(60));
    m.outbox_bytes.set(77);
    let running = Running::start(node, AdminLimits::default());
    let answer = exchange(running.http(), b"GET /metrics HTTP/1.1\r\nHost: n1\r\n\r\n");
    assert!(
        answer.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{answer}"
    );
    let samples = parse(answer.split_once("\r\n\r\n").unwrap().1);
    let value = |series: &str| {
        samples
            .iter()
            .find(|(name, _)| name == series)
            .unwrap_or_else(|| panic!("no {series} in {answer}"))
            .1
    };
    for (series, expected) in [
        ("hydrant_publishes_received_total{qos=\"1\"}", 11.0),
        ("hydrant_messages_dropped_total{reason=\"offline_qos0\"}", 9.0),
        ("hydrant_connections_closed_total{reason=\"keep_alive\"}", 1.0),
        ("hydrant_acknowledged_total{level=\"kafka\"}", 4.0),
        ("hydrant_received_bytes_total", 1_000.0),
        ("hydrant_outbox_bytes", 77.0),
        ("hydrant_acknowledgement_seconds_count", 2.0),
        ("hydrant_acknowledgement_seconds_sum", 60.0003),
        ("hydrant_acknowledgement_seconds_bucket{le=\"0.0002\"}", 0.0),
        ("hydrant_acknowledgement_seconds_bucket{le=\"0.0005\"}", 1.0),
        ("hydrant_acknowledgement_seconds_bucket{le=\"10.0\"}", 1.0),
        ("hydrant_acknowledgement_seconds_bucket{le=\"+Inf\"}", 2.0),
        ("hydrant_actor_restarts_total{path=\"storage\"}", 2.0),
        ("hydrant_actor_mailbox{path=\"supervisor/topic-router/0\"}", 3.0),
        ("hydrant_actor_longest_handler_seconds{path=\"storage\"}", 0.0015),
        ("hydrant_ready", 1.0),
    ] {
        assert_eq!(value(series), expected, "{series}");
    }
    assert!(samples.iter().any(|(name, _)| name.starts_with("hydrant_build_info{version=")));
    for reason in DropReason::ALL {
        value(&format!("hydrant_messages_dropped_total{{reason=\"{}\"}}", reason.label()));
    }
    for reason in CloseReason::ALL {
        value(&format!("hydrant_connections_closed_total{{reason=\"{}\"}}", reason.label()));
    }
    if cfg!(target_os = "linux") {
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") > 3.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}

#[test]
fn health_and_ready_say_why_not() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    let (code, body) = get(running.http(), "/ready");
    assert_eq!((code, body.as_str()), (200, r#"{"ready":true,"reasons":[]}"#));
    assert_eq!(get(running.http(), "/health").0, 200);
    *running.node.not_ready.lock().unwrap() =
        vec!["storage is away".to_owned(), "shutting down".to_owned()];
    let (code, body) = get(running.http(), "/ready");
    assert_eq!(
        (code, body.as_str()),
        (503, r#"{"ready":false,"reasons":["storage is away","shutting down"]}"#)
    );
    assert_eq!(get(running.http(), "/health").0, 200);
    *running.node.not_healthy.lock().unwrap() = vec!["storage failed for good".to_owned()];
    let (code, body) = get(running.http(), "/health");
    assert_eq!(
        (code, body.as_str()),
        (503, r#"{"healthy":false,"reasons":["storage failed for good"]}"#)
    );
    let (_, text) = get(running.http(), "/metrics");
    assert!(parse(&text).contains(&("hydrant_healthy".to_owned(), 0.0)));
    assert_eq!(running.node.bad_requests(), 0);
}

#[test]
fn ready_answers_every_method_of_a_load_balancer() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    for code in ["200", "503"] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            for end in ["HTTP/1.0\r\n\r\n", "HTTP/1.1\r\nHost: n1\r\n\r\n"] {
                let request = format!("{method} /ready {end}");
                let answer = exchange(running.http(), request.as_bytes());
                assert_eq!(answer.split(' ').nth(1), Some(code), "{request}{answer}");
                let (_, body) = answer.split_once("\r\n\r\n").unwrap();
                assert_eq!(body.is_empty(), method == "HEAD", "{request}{answer}");
            }
        }
        running.node.not_ready.lock().unwrap().push("drain: it is drained".to_owned());
    }
    assert_eq!(running.node.bad_requests(), 0);
}

#[test]
fn bad_requests_are_answered_or_closed_and_counted() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    let long = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024));
    let body = "POST /metrics HTTP/1.1\r\nHost: n1\r\nContent-Length: 1000000000\r\n\r\nabc";
    let cases: [(&str, &[u8], &str); 6] = [
        ("another path", b"GET /config HTTP/1.1\r\nHost: n1\r\n\r\n", "HTTP/1.1 404"),
        ("another method", b"DELETE /health HTTP/1.1\r\nHost: n1\r\n\r\n", "HTTP/1.1 405"),
        ("a body", body.as_bytes(), "HTTP/1.1 405"),
        ("an MQTT CONNECT", b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\r\n\r\n", ""),
        ("garbage", &[0xff; 4096], ""),
        ("a long header", long.as_bytes(), ""),
    ];
    for (i, (what, bytes, expected)) in cases.into_iter().enumerate() {
        let answer = exchange(running.http(), bytes);
        assert!(
            answer.starts_with(expected) && !answer.starts_with("HTTP/1.1 2"),
            "{what}: {answer}"
        );
        eventually(what, || running.node.bad_requests() == i as u64 + 1);
    }
    assert_eq!(get(running.http(), "/health").0, 200);
}

#[test]
fn slow_peers_are_cut_off_and_too_many_are_refused() {
    let limits = AdminLimits {
        http_connections: 3,
        http_header_timeout: Duration::from_secs(2),
        http_timeout: Duration::from_secs(4),
        ..AdminLimits::default()
    };
    let running = Running::start(Fake::new(), limits);
    let slow: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut stream = TcpStream::connect(running.http()).unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\nX-Slow: ").unwrap();
            stream
        })
        .collect();
    // The three hold every slot: a fourth is closed without an answer.
    assert_eq!(exchange(running.http(), b"GET /health HTTP/1.1\r\nHost: n1\r\n\r\n"), "");
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(
            !matches!(ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "still open"
        );
    }
    eventually("all are counted", || running.node.bad_requests() == 4);
    eventually("a slot is free", || {
        exchange(running.http(), b"GET /health HTTP/1.1\r\nHost: n1\r\n\r\n")
            .starts_with("HTTP/1.1 200")
    });
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    let dir = tempfile::tempdir().unwrap();
    let taken =
        AdminOptions { http: Some(running.http()), ..options(dir.path(), AdminLimits::default()) };
    let error = serve(taken, Arc::new(Fake::new())).unwrap_err();
    let expected = format!(
        "admin.address {} is in use by another process: choose another with --set admin.address=HOST:PORT",
        running.http()
    );
    assert_eq!(error.to_string(), expected);
    assert!(!socket_path(dir.path()).exists());
}

#[test]
fn shutdown_frees_the_port_whoever_is_connected() {
    let Running { server, .. } = Running::start(Fake::new(), AdminLimits::default());
    let address = server.bound_address().unwrap();
    let mut open = TcpStream::connect(address).unwrap();
    open.write_all(b"GET /he").unwrap();
    server.shutdown();
    assert!(TcpStream::connect(address).is_err());
    let off = tempfile::tempdir().unwrap();
    let none = AdminOptions { http: None, ..options(off.path(), AdminLimits::default()) };
    let server = serve(none, Arc::new(Fake::new())).unwrap();
    assert_eq!(server.bound_address(), None);
    assert_eq!(client::status(off.path()).unwrap().http, None);
}
