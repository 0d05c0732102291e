//! mosquitto_pub and mosquitto_sub, by their command lines.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use crate::support::{Node, SOON, eventually};
use crate::{finish, installed, run};

fn command(node: &Node, name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(installed("bin").join(name));
    command.args(["-h", "127.0.0.1", "-p", &node.mqtt.port().to_string()]).args(args);
    command
}

#[track_caller]
fn publish(node: &Node, args: &[&str]) {
    run(&mut command(node, "mosquitto_pub", args));
}

/// Starts mosquitto_sub and waits until the node has its subscription.
#[track_caller]
fn subscribe(node: &Node, args: &[&str]) -> Child {
    let before = node.metric("hydrant_subscriptions");
    let mut sub = command(node, "mosquitto_sub", args);
    sub.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = sub.spawn().expect("mosquitto_sub starts");
    eventually(SOON, "it is subscribed", || node.metric("hydrant_subscriptions") > before);
    child
}

#[test]
fn publish_and_subscribe() {
    let node = Node::builder().start();
    for qos in ["0", "1", "2"] {
        let sub = subscribe(&node, &["-t", "m/+", "-q", qos, "-C", "1", "-F", "%t %q %r %p"]);
        publish(&node, &["-t", "m/x", "-q", qos, "-m", "hello"]);
        assert_eq!(finish(sub), format!("m/x {qos} 0 hello\n"));
    }
}

#[test]
fn retained() {
    let node = Node::builder().start();
    publish(&node, &["-t", "m/retained", "-q", "1", "-r", "-m", "kept"]);
    let mut sub = command(&node, "mosquitto_sub", &["-t", "m/retained", "-C", "1", "-F", "%r %p"]);
    assert_eq!(run(&mut sub), "1 kept\n");
}

#[test]
fn will() {
    let node = Node::builder().start();
    let watcher = subscribe(&node, &["-t", "m/will", "-q", "1", "-C", "1"]);
    let mut dying = subscribe(
        &node,
        &["-t", "other", "--will-topic", "m/will", "--will-payload", "gone", "--will-qos", "1"],
    );
    dying.kill().expect("it runs");
    dying.wait().expect("a child of this process");
    assert_eq!(finish(watcher), "gone\n");
}

#[test]
fn persistent_session_over_a_restart() {
    let node = Node::builder().start();
    let session = ["-i", "m-persistent", "-c", "-t", "m/persistent", "-q", "2"];
    let mut sub = subscribe(&node, &session);
    // SIGTERM: mosquitto_sub sends DISCONNECT and ends.
    crate::support::node::signal(sub.id(), "TERM");
    sub.wait().expect("a child of this process");
    for n in 0..10 {
        publish(&node, &["-t", "m/persistent", "-q", "2", "-m", &n.to_string()]);
    }
    let node = node.restart();
    let printed =
        run(&mut command(&node, "mosquitto_sub", &[&session[..], &["-C", "10"]].concat()));
    assert_eq!(printed, (0..10).map(|n| format!("{n}\n")).collect::<String>());
}

#[test]
fn a_thousand_qos_2_messages_each_way() {
    let node = Node::builder().start();
    let sub = subscribe(&node, &["-t", "m/qos2", "-q", "2", "-C", "1000"]);
    let lines: String = (0..1000).map(|n| format!("{n}\n")).collect();
    let mut publisher = command(&node, "mosquitto_pub", &["-t", "m/qos2", "-q", "2", "-l"]);
    publisher.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut publisher = publisher.spawn().expect("mosquitto_pub starts");
    publisher.stdin.take().expect("stdin").write_all(lines.as_bytes()).expect("its input");
    finish(publisher);
    assert_eq!(finish(sub), lines);
}
