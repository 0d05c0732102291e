//! HAProxy's agent-check, and the admin socket's drain.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

fn connect(running: &Running) -> TcpStream {
    let stream = TcpStream::connect(running.server.agent_address().unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn said(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_agent_says_load_drain_and_down() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    for (spare, line) in [(73, "up 73%\n"), (100, "up 100%\n"), (0, "up 1%\n")] {
        *running.node.spare.lock().unwrap() = spare;
        assert_eq!(said(connect(&running)), line);
    }
    let mut asks = connect(&running);
    asks.write_all(b"an agent-send of HAProxy\n").unwrap();
    assert_eq!(said(asks), "up 1%\n");
    running.node.not_ready.lock().unwrap().push("actor storage is restarting".to_owned());
    assert_eq!(said(connect(&running)), "up 1%\n");
    *running.node.unwilling.lock().unwrap() = true;
    assert_eq!(said(connect(&running)), "down\n");
    client::drain(running.dir(), DrainAction::Start(None)).unwrap();
    assert_eq!(said(connect(&running)), "up 0%\n");
}

#[test]
fn agent_checks_are_bounded() {
    let limits = AdminLimits {
        http_connections: 1,
        http_timeout: Duration::from_millis(300),
        ..AdminLimits::default()
    };
    let running = Running::start(Fake::new(), limits);
    let mut holds = connect(&running);
    let mut line = [0; 5];
    holds.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"up 1%");
    assert_eq!(said(connect(&running)), "", "closed at once");
    assert_eq!(running.node.bad_requests(), 1);
    eventually("the first is cut off", || said(connect(&running)) == "up 1%\n");
    drop(holds);
}

#[test]
fn a_drain_is_waited_for_and_can_be_taken_back() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    let state = client::drain(running.dir(), DrainAction::Start(None)).unwrap();
    assert_eq!(state, DrainState { draining: true, left: 2, rate: 7, deadline_s: 0 });
    let state = client::drain(running.dir(), DrainAction::Start(Some(9))).unwrap();
    assert_eq!(state.rate, 9);
    let mut notes = Vec::new();
    client::wait_drained(running.dir(), &mut notes).unwrap();
    assert_eq!(notes, b"1 connections left\n0 connections left\n");
    assert!(!client::drain(running.dir(), DrainAction::Cancel).unwrap().draining);
    let error = client::wait_drained(running.dir(), &mut notes).unwrap_err();
    assert!(error.to_string().contains("taken back"), "{error}");
}
