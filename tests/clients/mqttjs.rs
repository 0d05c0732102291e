//! MQTT.js: the scenarios of `mqttjs_client.mjs`.

use std::process::Command;

use crate::support::Node;
use crate::{installed, run, script};

#[track_caller]
fn scenario(node: &Node, name: &str) {
    run(Command::new("node")
        .env("HYDRANT_NODE_MODULES", installed("js/node_modules"))
        .arg(script("mqttjs_client.mjs"))
        .args([name, &node.mqtt.port().to_string()]));
}

#[test]
fn publish_and_subscribe() {
    scenario(&Node::builder().start(), "publish_and_subscribe");
}

#[test]
fn retained() {
    scenario(&Node::builder().start(), "retained");
}

#[test]
fn will() {
    scenario(&Node::builder().start(), "will");
}

#[test]
fn persistent_session_over_a_restart() {
    let node = Node::builder().start();
    scenario(&node, "persistent_before");
    scenario(&node.restart(), "persistent_after");
}

#[test]
fn a_thousand_qos_2_messages_each_way() {
    scenario(&Node::builder().start(), "qos_2");
}
