//! What is refused before a node starts because it would be ignored, or would stop the start later:
//! by the start itself and by `broker config check`. And what commands say to a wrong word.

use std::process::Output;

use crate::support::command::{run_broker, stderr, success};
use crate::support::{Node, says};

#[track_caller]
fn refused(output: &Output, expected: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    says(&said, expected);
}

#[test]
fn a_section_without_its_switch_and_a_variable_that_is_no_key_end_the_start() {
    let (code, said) = Node::builder()
        .config("[kafka]\nbootstrap_servers = \"127.0.0.1:1\"\n")
        .env("HYDRANT_LOG_KIND", "kafka")
        .env("RUST_LOG", "verbose")
        .fails();
    assert_eq!(code, Some(1));
    let expected = [
        "config.toml:2: kafka.bootstrap_servers is set and log.kind is \"embedded\"",
        "environment HYDRANT_LOG_KIND: is no key: write HYDRANT__LOG__KIND",
        "environment RUST_LOG: \"verbose\" is no level",
    ];
    says(&said, &expected);
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn a_check_finds_what_a_start_would_refuse() {
    let check = |sets: &[&str]| {
        let mut args = vec!["config", "check"];
        args.extend(sets.iter().flat_map(|set| ["--set", set]));
        run_broker(&args)
    };
    let kafka = "kafka.bootstrap_servers=127.0.0.1:1";
    let sasl = "kafka.security_protocol=sasl_plaintext";
    let plain = "kafka.properties.sasl.mechanism=PLAIN";
    refused(
        &check(&["log.kind=kafka", kafka, sasl, plain]),
        &["[kafka] cannot be used", "sasl.username"],
    );
    refused(
        &check(&["log.kind=kafka", "kafka.bootstrap_servers=http://a:1"]),
        &["without \"http://\""],
    );
    let cassandra = ["storage.kind=cassandra", "cassandra.contact_points=127.0.0.1:1"];
    let tls = "cassandra.tls_ca=/nowhere/ca.pem";
    refused(
        &check(&[cassandra[0], cassandra[1], tls]),
        &["--set cassandra.tls_ca: ", "/nowhere/ca.pem"],
    );
    let zookeeper = ["cluster.kind=zookeeper", "zookeeper.tls_ca=/nowhere/zk.pem"];
    let both = [cassandra[0], cassandra[1], zookeeper[0], zookeeper[1]];
    refused(&check(&both), &["--set zookeeper.tls_ca: ", "/nowhere/zk.pem cannot be read"]);
    // Another machine's address is none of these.
    let elsewhere = check(&["listener.address=192.0.2.1:1883"]);
    assert!(elsewhere.status.success());
    assert!(
        stderr(&elsewhere)
            .contains("note: this machine has no address 192.0.2.1 (listener.address)")
    );
}

#[test]
fn a_level_kafka_without_kafka_is_noted() {
    let output = run_broker(&["config", "check", "--set", "route_default.ack=kafka"]);
    assert!(output.status.success());
    let note = "note: --set route_default.ack: ack = \"kafka\" waits for the embedded log";
    assert!(stderr(&output).starts_with(note), "{}", stderr(&output));
    assert_eq!(stderr(&run_broker(&["config", "check"])), "");
}

#[test]
fn a_check_looks_at_the_data_directory_and_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let check = |data: &std::path::Path, id: &str| {
        run_broker(&["config", "check", "--data-dir", data.to_str().unwrap(), "--node-id", id])
    };
    let new = folder.path().join("a/b");
    success(&check(&new, "n1"));
    assert!(!folder.path().join("a").exists(), "nothing is made");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    refused(
        &check(&file.join("data"), "n1"),
        &["--data-dir: ", "cannot be made or written", "is no folder"],
    );
    let node = Node::builder().id("nb").start();
    // While it runs, too.
    success(&check(&node.data_dir(), "nb"));
    refused(&check(&node.data_dir(), "n1"), &["belongs to node nb, not to n1"]);
}

#[test]
fn storage_commands_take_the_node_id_of_the_data_directory() {
    let mut node = Node::builder().id("nb").start();
    node.persistent("keeper").ping();
    assert_eq!(node.terminate(), Some(0));
    success(&node.cli(&["storage", "check"]));
    success(&node.cli(&["storage", "export", "all.hydrant"]));
    refused(
        &node.cli(&["storage", "export", "other.hydrant", "--node-id", "n1"]),
        &["belongs to node nb, not to n1"],
    );
}

#[test]
fn a_tail_of_an_mqtt_topic_ends_and_names_the_topic_of_the_log() {
    let node = Node::builder().start();
    refused(&node.cli(&["tail", "device/42/thermo"]), &["broker tail device-thermo"]);
}

#[test]
fn a_cancelled_drain_that_was_none_is_said_to() {
    let node = Node::builder().start();
    assert_eq!(
        success(&node.cli(&["drain", "--cancel"])),
        "the node was not draining: it takes clients\n"
    );
    success(&node.cli(&["drain"]));
    assert_eq!(success(&node.cli(&["drain", "--cancel"])), "the node takes clients again\n");
}

#[test]
fn an_option_of_other_brokers_is_answered_with_ours() {
    let output = run_broker(&["--port", "1884"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--listen 0.0.0.0:1884"), "{}", stderr(&output));
}
