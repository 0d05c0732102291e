//! MQTT 3.1.1 sections 3.1.2.4 and 4.1 to 4.6: sessions, redelivery, order.

use crate::shared;
use crate::support::client::{Connect, Publish, packet};
use crate::support::{Client, Node, Packet, SOON, eventually, unique};

#[test]
fn mqtt_3_1_2_4_a_persistent_session_keeps_its_subscriptions() {
    let (id, topic) = (unique("keeps"), unique("keeps"));
    shared().offline(&id, &[(&topic, 1)]);
    let mut client = shared().persistent(&id);
    shared().client(&unique("keeps")).publish(&topic, "x", 1);
    assert_eq!(client.take().text(), "x");
}

#[test]
fn mqtt_3_1_2_5_messages_for_an_offline_session_are_stored() {
    let (id, topic) = (unique("offline"), unique("offline"));
    shared().offline(&id, &[(&topic, 2)]);
    let mut publisher = shared().client(&unique("offline"));
    for n in 0..50 {
        publisher.publish(&topic, n.to_string(), 1 + n % 2);
    }
    let mut client = shared().persistent(&id);
    let came: Vec<_> = (0..50).map(|_| client.take()).collect();
    // In order for each QoS ([MQTT-4.6.0-6]).
    for qos in 1..=2u8 {
        let texts: Vec<_> =
            came.iter().filter(|p| p.qos == qos && !p.dup).map(|p| p.text()).collect();
        let expected: Vec<_> =
            (0..50).filter(|n| 1 + n % 2 == qos).map(|n| n.to_string()).collect();
        assert_eq!(texts, expected);
    }
}

#[test]
fn mqtt_3_1_2_5_qos_0_for_an_offline_session_is_dropped_and_counted() {
    let (id, topic) = (unique("offline0"), unique("offline0"));
    shared().offline(&id, &[(&topic, 1)]);
    let dropped = shared().dropped("offline_qos0");
    let mut publisher = shared().client(&unique("offline0"));
    publisher.publish(&topic, "zero", 0);
    publisher.publish(&topic, "one", 1);
    assert_eq!(shared().persistent(&id).take().text(), "one");
    assert!(shared().dropped("offline_qos0") > dropped);
}

#[test]
fn mqtt_3_1_2_6_a_clean_session_starts_without_state() {
    let (id, topic) = (unique("fresh"), unique("fresh"));
    shared().offline(&id, &[(&topic, 1)]);
    let mut publisher = shared().client(&unique("fresh"));
    publisher.publish(&topic, "waiting", 1);
    let mut client = shared().client(&id);
    publisher.publish(&topic, "not subscribed", 1);
    client.subscribe(&topic, 1);
    publisher.publish(&topic, "new", 1);
    assert_eq!(client.take().text(), "new");
    drop(client);
    // And leaves none.
    let (mut client, present) = shared().persistent_present(&id);
    assert!(!present);
    publisher.publish(&topic, "x", 1);
    client.subscribe(&topic, 1);
    publisher.publish(&topic, "fence", 1);
    assert_eq!(client.take().text(), "fence");
}

#[test]
fn mqtt_3_1_2_7_retained_messages_outlive_the_session() {
    let topic = unique("outlive");
    let mut client = shared().client(&unique("outlive"));
    client.retain(&topic, "kept", 1);
    client.disconnect();
    let mut late = shared().client(&unique("outlive")).subscribed(&topic, 0);
    assert_eq!(late.take().text(), "kept");
}

#[test]
fn mqtt_4_1_0_1_a_session_lasts_while_its_client_is_away_and_ends_by_configuration() {
    let node = Node::builder().set("session.expiry", "2s").start();
    node.offline("expires", &[("t", 1)]);
    node.client("publisher").publish("t", "lost", 1);
    eventually(SOON, "the session has expired", || node.dropped("session_expired") >= 1.0);
    let (_, present) = node.persistent_present("expires");
    assert!(!present);
}

#[test]
fn mqtt_4_1_0_2_a_connected_session_does_not_expire() {
    let node = Node::builder().set("session.expiry", "1s").start();
    let other = node.persistent("other").subscribed("o", 1);
    let mut stays = node.persistent("stays").subscribed("t", 1);
    other.disconnect();
    let mut publisher = node.client("publisher");
    publisher.publish("o", "lost", 1);
    eventually(SOON, "the other session has expired", || node.dropped("session_expired") >= 1.0);
    publisher.publish("t", "x", 1);
    assert_eq!(stays.take().text(), "x");
}

#[test]
fn mqtt_4_4_0_1_unacknowledged_messages_are_sent_again_with_their_identifiers_in_order() {
    let (id, topic) = (unique("again"), unique("again"));
    let mut client = shared().persistent(&id).subscribed(&topic, 2);
    let mut publisher = shared().client(&unique("again"));
    for n in 0..12 {
        publisher.publish(&topic, n.to_string(), 1 + n % 2);
    }
    let first: Vec<_> = (0..12).map(|_| client.publish_in()).collect();
    // Number 2 is acknowledged, of number 3 PUBREC has come: it is released.
    client.puback(first[2].id);
    client.pubrec(first[3].id);
    client.expect(Packet::Pubrel(first[3].id));
    drop(client);

    let mut client = shared().persistent(&id);
    let mut publishes = Vec::new();
    let mut released = Vec::new();
    for _ in 0..11 {
        match client.recv() {
            Packet::Publish(publish) => publishes.push(publish),
            Packet::Pubrel(id) => released.push(id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(released, [first[3].id]);
    let expected: Vec<_> =
        first.iter().enumerate().filter(|(n, _)| *n != 2 && *n != 3).map(|(_, p)| p).collect();
    assert_eq!(publishes.len(), expected.len());
    for (came, expected) in publishes.iter().zip(expected) {
        assert_eq!((came.text(), came.id, came.dup), (expected.text(), expected.id, true));
    }
    client.pubcomp(first[3].id);
    for publish in &publishes {
        client.acknowledge(publish);
    }
    client.ping();
    publisher.publish(&topic, "fence", 1);
    assert_eq!(client.take().text(), "fence");
}

#[test]
fn mqtt_4_4_0_1_a_takeover_sends_again_too() {
    let (id, topic) = (unique("again"), unique("again"));
    let mut first = shared().persistent(&id).subscribed(&topic, 1);
    shared().client(&unique("again")).publish(&topic, "x", 1);
    let before = first.publish_in();
    let mut second = shared().persistent(&id);
    let again = second.take();
    assert_eq!((again.id, again.dup), (before.id, true));
}

#[test]
fn mqtt_4_5_0_1_every_session_with_a_matching_subscription_gets_the_message() {
    let topic = unique("everyone");
    let away = unique("everyone");
    let mut clients: Vec<_> = (0..5).map(|_| shared().client(&unique("everyone"))).collect();
    clients.extend((0..5).map(|_| shared().persistent(&unique("everyone"))));
    for client in &mut clients {
        client.subscribe(&topic, 1);
    }
    shared().offline(&away, &[(&topic, 1)]);
    shared().client(&unique("everyone")).publish(&topic, "x", 1);
    clients.push(shared().persistent(&away));
    for client in &mut clients {
        assert_eq!(client.take().text(), "x");
    }
}

#[test]
fn mqtt_4_6_0_2_and_3_acknowledgements_come_in_the_order_of_the_publishes() {
    let mut client = shared().client(&unique("order"));
    let topic = unique("order");
    client.burst(1..=200, |id| Publish::new(&topic, b"x").qos(1 + (id % 2) as u8));
    for id in 1..=200u16 {
        client.expect(if id % 2 == 0 { Packet::Puback(id) } else { Packet::Pubrec(id) });
    }
}

#[test]
fn mqtt_4_6_0_4_pubrels_come_in_the_order_of_the_pubrecs() {
    let topic = unique("order");
    let mut subscriber = shared().client(&unique("order")).subscribed(&topic, 2);
    let mut publisher = shared().client(&unique("order"));
    for _ in 0..30 {
        publisher.publish(&topic, "x", 2);
    }
    let ids: Vec<_> = (0..30).map(|_| subscriber.publish_in().id).collect();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| packet(0x50, &id.to_be_bytes())).collect();
    subscriber.send(&bytes);
    for id in ids {
        subscriber.expect(Packet::Pubrel(id));
    }
}

#[test]
fn mqtt_4_6_0_5_and_6_messages_of_one_publisher_keep_their_order() {
    for qos in 0..3 {
        let topic = unique("ordered");
        let mut subscribers: Vec<_> = (0..3).map(|_| shared().client(&unique("ordered"))).collect();
        subscribers.push(shared().persistent(&unique("ordered")));
        for subscriber in &mut subscribers {
            subscriber.subscribe(&topic, qos);
        }
        let mut publisher = shared().client(&unique("ordered"));
        publisher.burst(1..=500, |n| Publish::new(&topic, n.to_string()).qos(qos));
        for subscriber in &mut subscribers {
            for n in 1..=500 {
                assert_eq!(subscriber.take().text(), n.to_string());
            }
        }
    }
}

#[test]
fn mqtt_4_8_0_1_a_protocol_error_closes_that_connection_only() {
    let mut bystander = shared().client(&unique("error"));
    let mut client = shared().client(&unique("error"));
    client.send(&[0xf0, 0]);
    client.expect_closed();
    bystander.ping();
}

#[test]
fn section_4_4_the_in_flight_window_holds_back_what_is_past_it() {
    let node = Node::builder().set("session.max_inflight", 4).start();
    for connect in [Connect::new("clean"), Connect::new("kept").persistent()] {
        let mut subscriber = Client::connect(node.mqtt, &connect);
        subscriber.subscribe("w", 1);
        let mut publisher = node.client("publisher");
        for n in 0..10 {
            publisher.publish("w", n.to_string(), 1);
        }
        let first: Vec<_> = (0..4).map(|_| subscriber.publish_in()).collect();
        subscriber.ping();
        assert_eq!(
            subscriber.recv_within(std::time::Duration::from_millis(300)).unwrap(),
            None,
            "past the window"
        );
        subscriber.puback(first[0].id);
        assert_eq!(subscriber.publish_in().text(), "4");
        for publish in &first[1..] {
            subscriber.puback(publish.id);
        }
        for n in 5..8 {
            assert_eq!(subscriber.publish_in().text(), n.to_string());
        }
    }
}
