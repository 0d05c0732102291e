//! The admin socket: who may bind it, what it answers, and what it does not suffer from.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use hydrant_actors::metrics::DropReason;

use super::super::wire::{Reply, Request, read_line};
use super::*;

fn replies(stream: UnixStream) -> Vec<Reply> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect()
}

fn refusal(dir: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket_path(dir)).unwrap();
    let _ = stream.write_all(bytes);
    match &replies(stream)[..] {
        [Reply::Error(text)] => text.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_live_socket_is_left_alone_and_a_stale_one_replaced() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    let path = socket_path(running.dir());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let second = serve(options(running.dir(), AdminLimits::default()), Arc::new(Fake::new()));
    let error = second.unwrap_err().to_string();
    assert!(
        error.starts_with("another node answers at") && error.contains("choose another --data-dir"),
        "{error}"
    );
    assert_eq!(client::status(running.dir()).unwrap().pid, std::process::id());

    let Running { server, dir, .. } = running;
    server.shutdown();
    assert!(!path.exists());
    let error = client::status(dir.path()).unwrap_err().to_string();
    let shown = path.display();
    assert_eq!(
        error,
        format!("no node answers at {shown}: is the broker running with this --data-dir?")
    );

    drop(UnixListener::bind(&path).unwrap()); // what a killed node leaves
    assert!(path.exists());
    let error = client::status(dir.path()).unwrap_err().to_string();
    assert!(error.starts_with("no node answers at"), "{error}");
    let server = serve(options(dir.path(), AdminLimits::default()), Arc::new(Fake::new())).unwrap();
    client::status(dir.path()).unwrap();

    // A successor's socket survives the end of the one before it.
    std::fs::remove_file(&path).unwrap();
    let _successor =
        serve(options(dir.path(), AdminLimits::default()), Arc::new(Fake::new())).unwrap();
    server.shutdown();
    client::status(dir.path()).unwrap();
}

#[test]
fn what_cannot_be_a_socket_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(socket_path(dir.path()), "precious").unwrap();
    let start = |dir: &Path| serve(options(dir, AdminLimits::default()), Arc::new(Fake::new()));
    let error = start(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is not a socket: move it away"), "{error}");
    assert_eq!(std::fs::read(socket_path(dir.path())).unwrap(), b"precious");
    let error = start(&dir.path().join("x".repeat(120))).unwrap_err().to_string();
    assert!(error.contains("choose a shorter --data-dir"), "{error}");
    let error = start(&dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(error.contains("cannot be made"), "{error}");
}

#[test]
fn the_tree_is_drawn() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    let tree = client::tree(running.dir(), &TreeRequest::default()).unwrap();
    assert_eq!(tree.actors, running.node.actors());
    assert_eq!(tree.connections, None);
    let drawn = tree.to_string();
    let firsts: Vec<&str> =
        drawn.lines().map(|line| line.split("  running").next().unwrap().trim()).collect();
    let expected = [
        "n1",
        "├─ supervisor",
        "│  ├─ supervisor/connection-manager/0",
        "│  └─ supervisor/topic-router/0",
        "└─ storage",
    ];
    assert_eq!(firsts[1..], expected, "{drawn}");
    let line = drawn.lines().last().unwrap();
    let cells: Vec<&str> = line.split_whitespace().skip(2).collect();
    assert_eq!(cells, ["running", "3", "2", "1234", "1.5", "ms", "panicked:", "boom"], "{drawn}");
    assert!(drawn.contains("7 connections"), "{drawn}");
}

#[test]
fn the_nodes_of_a_cluster_are_a_table() {
    use hydrant_protocol::cluster::{Load, Member, MembershipView};
    let running = Running::start(Fake::new(), AdminLimits::default());
    let error = client::nodes(running.dir()).unwrap_err().to_string();
    assert_eq!(error, NO_CLUSTER);
    let member = |node_id: &str, draining| Member {
        node_id: node_id.into(),
        incarnation: 7,
        peer: format!("{node_id}.example:7883"),
        mqtt: vec!["a:1883".to_owned(), "b\u{1b}:1883".to_owned()],
        version: "0.1.0".to_owned(),
        protocol: (1, 1),
        load: Load { connections: 12, max_connections: 100 },
        draining,
    };
    let members = [member("n1", false), member("n2", true)].into();
    let mut nodes = Nodes::from(&MembershipView { generation: 4, members, current: true });
    *running.node.nodes.lock().unwrap() = Some(nodes.clone());
    let found = client::nodes(running.dir()).unwrap();
    assert_eq!(found, nodes);
    let drawn = found.to_string();
    let lines: Vec<Vec<&str>> =
        drawn.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0].join(" "), "generation 4, zookeeper current");
    assert_eq!(lines[1].join(" "), "node incarnation peer mqtt version connections state");
    let row = |id: &str, state: &str| {
        format!("{id} 7 {id}.example:7883 a:1883, b\\u{{1b}}:1883 0.1.0 12/100 {state}")
    };
    assert_eq!(lines[2].join(" "), row("n1", "active"));
    assert_eq!(lines[3].join(" "), row("n2", "draining"));
    assert_eq!(lines.len(), 4, "{drawn}");
    nodes.current = false;
    assert!(nodes.to_string().starts_with("generation 4, zookeeper away\n"));
}

#[test]
fn connections_come_in_pages() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    let page = |page, page_size| {
        client::tree(running.dir(), &TreeRequest { connections: true, page, page_size })
    };
    let tree = page(1, 100).unwrap();
    let rows = &tree.connections.as_ref().unwrap().rows;
    assert_eq!((rows.len(), rows[0].client_id.as_str()), (100, "c100"));
    assert!(tree.to_string().contains("there may be more: --page 3"));
    let last = page(2, 100).unwrap();
    assert_eq!(last.connections.as_ref().unwrap().rows.len(), 50);
    assert!(!last.to_string().contains("there may be more"));
    assert!(page(9, 100).unwrap().to_string().contains("no connections on page 10"));
    assert_eq!(page(0, 0).unwrap_err().to_string(), "page_size is 1 to 1000, not 0");
    assert!(page(0, usize::MAX).is_err());
}

#[test]
fn status_and_faults() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    let metrics = running.node.metrics();
    metrics.workers[1].connections.add(12);
    metrics.workers[0].drop_messages(DropReason::QueueFull, 3, format_args!("c1"));
    metrics.workers[1].drop_messages(DropReason::QueueFull, 4, format_args!("c1"));
    *running.node.not_ready.lock().unwrap() = vec!["listeners are not open".to_owned()];
    let status = client::status(running.dir()).unwrap();
    assert_eq!((status.connections, status.http), (12, Some(running.http().to_string())));
    let text = client::status(running.dir()).unwrap().to_string();
    for line in [
        "ready          no: listeners are not open",
        "node           n1",
        "listeners      tcp/127.0.0.1:1883",
        "log            kafka 127.0.0.1:9092 up",
        "dropped        7 queue_full",
    ] {
        assert!(text.lines().any(|found| found == line), "no '{line}' in:\n{text}");
    }

    let fault = || client::fault(running.dir(), FaultAction::Stall, "storage");
    assert_eq!(
        fault().unwrap_err().to_string(),
        "faults are off: start the node with debug.faults = true"
    );
    *running.node.faults.lock().unwrap() = Some(vec![]);
    fault().unwrap();
    let seen = running.node.faults.lock().unwrap().clone().unwrap();
    assert_eq!(seen, [(FaultAction::Stall, "storage".to_owned())]);
}

#[test]
fn bad_requests_are_refused_and_counted() {
    let running =
        Running::start(Fake::new(), AdminLimits { max_line: 1_000, ..AdminLimits::default() });
    let cases: [(&[u8], &str); 6] = [
        (b"hello\n", "bad request: expected value"),
        (b"{\"request\":\"reboot\"}\n", "bad request: unknown variant `reboot`"),
        (b"{\"request\":\"tree\",\"pages\":3}\n", "bad request: unknown field `pages`"),
        (b"{\"request\":\"tail\"}\n", "bad request: missing field `topic`"),
        (b"\xff\xff\n", "bad request:"),
        (&[b'a'; 5_000], "the request is longer than 1000 bytes"),
    ];
    for (i, (bytes, expected)) in cases.into_iter().enumerate() {
        let error = refusal(running.dir(), bytes);
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(running.node.bad_requests(), i as u64 + 1);
    }
    let tree = TreeRequest { connections: true, page: 2, page_size: 3 };
    let sent = serde_json::to_string(&Request::Tree(tree)).unwrap();
    assert_eq!(sent, r#"{"request":"tree","connections":true,"page":2,"page_size":3}"#);
}

#[test]
fn silent_clients_are_cut_off_and_too_many_are_refused() {
    let limits = AdminLimits {
        socket_connections: 2,
        request_timeout: Duration::from_secs(2),
        ..AdminLimits::default()
    };
    let running = Running::start(Fake::new(), limits);
    let connect = || UnixStream::connect(socket_path(running.dir())).unwrap();
    let silent = [connect(), connect()];
    let error = client::status(running.dir()).unwrap_err();
    assert!(matches!(error, client::ClientError::Closed), "{error}");
    for stream in silent {
        assert_eq!(replies(stream), [Reply::Error("no request came in 2s".to_owned())]);
    }
    eventually("a slot is free", || client::status(running.dir()).is_ok());
}

#[tokio::test]
async fn lines_are_cut_at_the_bound_wherever_reads_end() {
    for buffer in 1..12 {
        let mut input = tokio::io::BufReader::with_capacity(buffer, &b"12345678\n\nlast"[..]);
        let mut line = Vec::new();
        assert!(read_line(&mut input, &mut line, 8).await.unwrap());
        assert_eq!(line, b"12345678");
        line.clear();
        assert!(read_line(&mut input, &mut line, 8).await.unwrap());
        assert_eq!(line, b"");
        let cut = read_line(&mut input, &mut line, 8).await.unwrap_err();
        assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof);
        let mut input = tokio::io::BufReader::with_capacity(buffer, &b"123456789\n"[..]);
        line.clear();
        let long = read_line(&mut input, &mut line, 8).await.unwrap_err();
        assert_eq!(long.kind(), std::io::ErrorKind::InvalidData);
        assert!(line.len() <= 8);
    }
    assert!(!read_line(&mut &b""[..], &mut Vec::new(), 8).await.unwrap());
}
