//! `broker kafka check` against a real Kafka. The binary itself runs.

use crate::support::command::{run_broker, stderr, stdout};
use crate::support::kafka::shared;
use crate::support::server::free_port;

/// Exit code and output of `broker kafka check TOPICS`.
fn check(address: &str, topics: &[&str], sets: &[&str]) -> (Option<i32>, String) {
    let mut args = vec!["kafka".to_owned(), "check".to_owned()];
    args.extend(topics.iter().map(ToString::to_string));
    args.extend(["--node-id".to_owned(), "n1".to_owned()]);
    let servers = format!("kafka.bootstrap_servers={address}");
    for set in ["log.kind=kafka", &servers].into_iter().chain(sets.iter().copied()) {
        args.extend(["--set".to_owned(), set.to_owned()]);
    }
    let output = run_broker(&args);
    (output.status.code(), stdout(&output) + &stderr(&output))
}

#[test]
fn what_check_says_of_a_real_kafka() {
    let kafka = shared();
    let address = kafka.address();
    kafka.create_topic("check-fit", 1, &[]);
    let (code, said) = check(&address, &["check-fit", "check-new"], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("ok connection: Kafka answers: 1 brokers"), "{said}");
    assert!(said.contains("ok create: topics can be made, 12 partitions each"), "{said}");
    assert!(said.contains("ok topics: not there yet, made on first use: check-new"), "{said}");
    assert!(said.contains("warn topics: topic check-fit has 1 replicas"), "{said}");
    for topic in ["check-new", "hydrant-check-makes-no-topic"] {
        assert_eq!(kafka.partitions(topic), 0, "{topic} is made");
    }

    kafka.create_topic("check-small", 1, &[("max.message.bytes", "2000")]);
    kafka.create_topic("check-segment", 1, &[("segment.bytes", "4000")]);
    kafka.create_topic("check-insync", 1, &[("min.insync.replicas", "2")]);
    for (topic, what) in [
        ("check-small", "max.message.bytes = 2000 is below limits.max_packet_size"),
        ("check-segment", "segment.bytes = 4000 is below limits.max_packet_size"),
        ("check-insync", "has 1 replicas and min.insync.replicas = 2"),
    ] {
        let (code, said) = check(&address, &[topic], &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("FAIL topics: ") && said.contains(what), "{said}");
    }
    let (code, said) = check(&address, &[], &["kafka.replication_factor=3"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAIL create: kafka.replication_factor = 3 is not possible"), "{said}");
    let (code, said) = check(&address, &["check-new"], &["kafka.create_topics=false"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAIL topics: missing: check-new"), "{said}");

    let nobody = format!("127.0.0.1:{}", free_port());
    let (code, said) = check(&nobody, &[], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("FAIL connection: no answer from {nobody}: ")), "{said}");
    assert!(said.contains("refused"), "the reason: {said}");
    let (code, said) = check(&address, &[], &["log.kind=embedded"]);
    assert_eq!(code, Some(1), "{said}");
}
