//! A cluster behind a real HAProxy.

use crate::nodes::{Cluster, sees};
use crate::support::command::success;
use crate::support::eventually;
use crate::support::haproxy::HaProxy;
use crate::support::load::{Load, PATIENCE, Subscriber};
use crate::support::server::free_port;

/// Each node in turn is drained, stopped and started again, under load.
#[test]
fn a_rolling_restart_behind_haproxy_loses_nothing_acknowledged() {
    let cluster = Cluster::new();
    let ids = ["n1", "n2", "n3"];
    // HAProxy finds it there again.
    let port = || format!("127.0.0.1:{}", free_port());
    let start = |id: &str| {
        let builder = cluster.builder(id).listen(&port()).set("admin.address", port());
        let builder = builder.set("admin.agent_listen", port()).set("node.drain_rate", 50);
        builder.set("listener.proxy_protocol", "required").start()
    };
    let mut nodes: Vec<_> = ids.iter().map(|id| start(id)).collect();
    nodes.iter().for_each(|node| sees(node, &ids));
    let haproxy = HaProxy::start(&nodes);
    let loads = [1, 2].map(|qos| {
        let kind = format!("rolled-qos{qos}");
        let subscriber = Subscriber::start(haproxy.mqtt, &kind, qos);
        (Load::start_stubborn(haproxy.mqtt, &kind, 4, qos), subscriber)
    });
    let go_on = |more: u64| loads.iter().for_each(|(load, _)| load.goes_on(more));
    go_on(100);
    for (at, id) in ids.iter().enumerate() {
        success(&nodes[0].cli(&["drain", "--wait"]));
        go_on(50);
        let node = nodes.remove(0).restart();
        sees(&node, &ids);
        nodes.push(node);
        eventually(PATIENCE, "HAProxy knows", || haproxy.stat(id, "status") == "UP");
        go_on(50);
        assert!(nodes.iter_mut().all(crate::support::Node::is_running), "after {at}");
    }
    let [_, again_qos2] = loads.map(|(load, subscriber)| subscriber.finish(&load.finish()));
    assert_eq!(again_qos2, 0, "of QoS 2 came twice");
}
