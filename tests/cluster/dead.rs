//! Dead letters of a node that is lost are its successor's.

use crate::nodes::{Cluster, sees};
use crate::support::command::stdout;
use crate::support::load::PATIENCE;
use crate::support::{Node, eventually};

#[test]
fn the_dead_letters_of_a_killed_node_are_listed_and_replayed_at_its_successor() {
    // The embedded log refuses a topic beyond `log.max_topics`.
    let cluster = Cluster::new();
    let nodes = ["n1", "n2"].map(|id| {
        let node = cluster.builder(id);
        let most = if id == "n2" { 1 } else { 100 };
        node.set("log.kind", "embedded").set("log.max_topics", most).start()
    });
    let [n1, mut n2] = nodes;
    sees(&n1, &["n1", "n2"]);
    sees(&n2, &["n1", "n2"]);
    let mut client = n2.client("sender");
    client.publish("the/k/only", "taken", 1);
    for payload in ["one", "two"] {
        client.publish("one/k/more", payload, 1);
    }
    eventually(PATIENCE, "they are dead letters", || n2.metric("hydrant_dead_letters") == 2.0);
    let listed = |node: &Node| stdout(&node.cli(&["dead", "list"]));
    let before = listed(&n2);
    assert_eq!(before.lines().count(), 3, "{before}");
    n2.kill9();
    eventually(PATIENCE, "the successor has them", || n1.metric("hydrant_dead_letters") == 2.0);
    assert_eq!(listed(&n1), before);
    let output = n1.cli(&["dead", "replay", "--all"]);
    assert_eq!(stdout(&output), "2 delivered\n");
    let records = n1.tail("one-more", 2);
    assert!(records.contains("one") && records.contains("two"), "{records}");
    // The dead one comes back, and has none.
    let n2 = n2.restart();
    assert_eq!(listed(&n2), "no dead letters\n");
}
