//! Start and the command line: mistakes are all reported at once and in one clear sentence each,
//! with a non-zero exit.

use std::net::TcpListener;
use std::sync::Arc;

use hydrant::embedded::{EmbeddedStore, StoreOptions};
use hydrant_actors::ports::{SessionOp, SessionStore as _, StoreOp, UNFINISHED};

use crate::support::command::{run_broker, stderr, stdout};
use crate::support::process::signal;
use crate::support::{Node, SOON, eventually, says};

/// What `broker` says with these arguments, which it does not take.
#[track_caller]
fn refused(args: &[&str]) -> String {
    let output = run_broker(args);
    assert!(!output.status.success());
    stderr(&output)
}

#[test]
fn every_mistake_of_a_configuration_is_reported_at_once_with_its_line() {
    let text = "[listener]\nadress = \"127.0.0.1:1\"\n[log]\nkind = \"kafak\"\n\n[limits]\nconnect_rate = 0\n";
    let (code, said) = Node::builder()
        .config(text)
        .set("session.expirey", "1s")
        .env("HYDRANT__NODE__ID", "a b")
        .fails();
    assert_ne!(code, Some(0));
    says(&said, &["config.toml:2", "address", "config.toml:4", "kafka", "config.toml:7"]);
    says(&said, &["session.expirey", "session.expiry"]);
}

#[test]
fn a_file_that_is_no_toml_is_reported_with_its_line() {
    let (code, said) = Node::builder().config("[node]\nid = \"n1\"\nid = = 3\n").fails();
    assert_ne!(code, Some(0));
    assert!(said.contains("config.toml:3"), "{said}");
}

#[test]
fn a_missing_file_that_was_named_is_an_error() {
    let (code, said) = Node::builder().arg("--config").arg("nowhere.toml").fails();
    assert_ne!(code, Some(0));
    assert!(said.contains("nowhere.toml"), "{said}");
}

#[test]
fn a_port_in_use_is_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let said = refused(&["--node-id", "n1", "--listen", &address, "--data-dir", data]);
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains(&address)).count(), 1, "{said}");
}

#[test]
fn a_port_for_machines_that_is_taken_is_known_before_anything_runs() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["admin.address", "admin.agent_listen"] {
        let (code, said) = Node::builder().set(key, &address).fails();
        assert_eq!(code, Some(1));
        let expected = format!("{key} {address} is in use by another process");
        assert!(said.contains(&expected) && !said.contains("actor "), "{said}");
    }
}

#[test]
fn a_signal_in_the_middle_of_a_long_start_ends_it() {
    // Takes connections and never answers: the node waits for cassandra.connect_timeout.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (code, said) = Node::builder()
        .set("storage.kind", "cassandra")
        .set("cassandra.contact_points", &address)
        .ends(|pid| {
            eventually(SOON, "it asks for Cassandra", || silent.accept().is_ok());
            signal(pid, "TERM");
        });
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("it was told to before its store was open"), "{said}");
}

#[test]
fn a_folder_that_cannot_be_made_is_one_sentence() {
    // Below a file, so that it holds for root too.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let data = file.join("data");
    let said = refused(&["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
    assert!(said.contains(data.to_str().unwrap()) && said.contains("--data-dir"), "{said}");
}

#[test]
fn a_store_of_a_newer_format_is_one_sentence() {
    let mut node = Node::builder().start();
    assert_eq!(node.terminate(), Some(0));
    let data = node.data_dir();
    let mut found = Vec::new();
    for part in ["store", "log"] {
        for entry in std::fs::read_dir(data.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let is_identity = |text: &String| text.starts_with('{') && text.contains("\"format\"");
            if let Some(text) = std::fs::read_to_string(&path).ok().filter(is_identity) {
                found.push((path, text));
            }
        }
    }
    assert_eq!(found.len(), 2, "store and log each say their format");
    for (path, text) in found {
        std::fs::write(&path, "{\"format\":99}").unwrap();
        let said = refused(&["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
        assert!(said.contains("format 99") && said.contains("newer"), "{said}");
        std::fs::write(&path, text).unwrap();
    }
    node.restart().client("c").ping();
}

#[test]
fn a_data_directory_belongs_to_one_node() {
    let node = Node::builder().start();
    let data = node.data_dir();
    let data = data.to_str().unwrap();
    let said = refused(&["--node-id", "n1", "--listen", "127.0.0.1:0", "--data-dir", data]);
    assert!(said.contains("in use by another broker"), "{said}");
    node.client("c").ping();
    let mut node = node;
    assert_eq!(node.terminate(), Some(0));
    let said = refused(&["--node-id", "n2", "--listen", "127.0.0.1:0", "--data-dir", data]);
    assert!(said.contains("n1") && said.contains("n2"), "{said}");
}

#[test]
fn the_ready_line_names_every_bound_address() {
    let node = Node::builder().start();
    let ready = node.wait_log("ready node=n1");
    assert!(
        ready.contains(&format!("tcp={}", node.mqtt))
            && ready.contains(&format!("admin={}", node.admin)),
        "{ready}"
    );
    assert!(ready.contains("data_dir="), "{ready}");
    node.client("c").ping();
}

#[test]
fn a_cluster_on_the_embedded_store_is_refused() {
    let (code, said) = Node::builder().set("cluster.kind", "zookeeper").fails();
    assert_eq!(code, Some(1));
    assert!(said.contains("a cluster cannot use the embedded store"), "{said}");
}

#[test]
fn version_and_configuration_are_printed() {
    let said = stdout(&run_broker(&["--version"]));
    assert_eq!(said.trim(), concat!("broker ", env!("CARGO_PKG_VERSION")));
    let output = run_broker(&["config", "check"]);
    assert!(output.status.success());
    let said = stdout(&run_broker(&["config", "print", "--set", "log.kind=none"]));
    assert!(said.contains("kind = \"none\"") && said.contains("--set"), "{said}");
    let said = stdout(&run_broker(&["route", "device/42/thermo"]));
    assert!(said.contains("device-thermo") && said.contains("42"), "{said}");
}

#[test]
fn the_shipped_configuration_file_holds_the_defaults() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    let with = run_broker(&["config", "default"]);
    assert_eq!(stdout(&with), std::fs::read_to_string(file).unwrap());
}

#[test]
fn a_store_with_an_unfinished_import_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let store = EmbeddedStore::open(&store, "n1", StoreOptions::default()).unwrap();
    let client_id = UNFINISHED.into();
    let mark = StoreOp::Session(SessionOp::PutSession {
        id: 1,
        client_id,
        epoch: 0,
        disconnected_ms: Some(0),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.write(Arc::new(vec![mark]))).unwrap();
    drop(store);
    let (code, said) = Node::builder().id("n1").data_dir(folder.path()).fails();
    assert_eq!(code, Some(1));
    assert!(said.contains("an import into it was not finished: empty it"), "{said}");
}
