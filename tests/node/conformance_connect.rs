//! MQTT 3.1.1 sections 3.1, 3.2, 3.12 and 3.14: CONNECT, CONNACK, PINGREQ, DISCONNECT.

use std::time::{Duration, Instant};

use crate::shared;
use crate::support::client::{Connect, Publish, packet, subscribe, text, unsubscribe};
use crate::support::{Client, Packet, unique};

const ACCEPTED: Packet = Packet::Connack { present: false, code: 0 };

/// Variable header of a CONNECT, and the fields that follow it.
fn connect(name: &str, level: u8, flags: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut body = [&text(name)[..], &[level, flags, 0, 0]].concat();
    fields.iter().for_each(|field| body.extend_from_slice(&text(field)));
    packet(0x10, &body)
}

/// A new socket sends this and is cut off without a CONNACK.
#[track_caller]
fn closes(bytes: &[u8]) {
    let mut client = shared().socket();
    client.send(bytes);
    client.expect_closed();
}

/// A new socket sends this, gets this return code and is cut off.
#[track_caller]
fn refused(bytes: &[u8], code: u8) {
    let mut client = shared().socket();
    client.send(bytes);
    client.expect(Packet::Connack { present: false, code });
    client.expect_closed();
}

#[track_caller]
fn accepted(bytes: &[u8]) -> Client {
    let mut client = shared().socket();
    client.send(bytes);
    client.expect(ACCEPTED);
    client
}

#[test]
fn mqtt_3_1_0_1_the_first_packet_has_to_be_connect() {
    closes(&Publish::new("first", b"x").bytes());
    closes(&subscribe(1, &[("a", 0)]));
    closes(&[0xc0, 0]);
    closes(&[0xe0, 0]);
    closes(&packet(0x40, &[0, 1]));
    closes(b"GET / HTTP/1.1\r\n\r\n");
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_closes() {
    let id = unique("second");
    let mut client = shared().client(&id);
    client.send(&Connect::new(&id).bytes());
    client.expect_closed();
}

#[test]
fn mqtt_3_1_2_1_another_protocol_name_closes() {
    for name in ["mqtt", "MQTTT", "MQT", "", "HTTP", "MQIsdP"] {
        closes(&connect(name, 4, 2, &[b"x"]));
    }
}

#[test]
fn mqtt_3_1_2_2_another_protocol_level_is_refused_with_code_1() {
    for level in [0, 1, 2, 3, 5, 6, 127, 255] {
        refused(&connect("MQTT", level, 2, &[b"level"]), 1);
    }
}

#[test]
fn mqtt_3_1_of_before_connects_with_its_own_name() {
    accepted(&connect("MQIsdp", 3, 2, &[unique("old").as_bytes()])).ping();
    refused(&connect("MQIsdp", 3, 2, &[b""]), 2);
    refused(&connect("MQIsdp", 4, 2, &[b"x"]), 1);
}

#[test]
fn mqtt_3_1_of_before_has_no_session_present_and_dup_on_requests() {
    let id = unique("old");
    let persistent = connect("MQIsdp", 3, 0, &[id.as_bytes()]);
    accepted(&persistent).disconnect();
    // That byte of CONNACK is reserved there.
    let mut client = accepted(&persistent);
    // Resent requests have DUP set there.
    let topic = unique("old");
    let mut request = subscribe(1, &[(&topic, 1)]);
    request[0] |= 0b1000;
    client.send(&request);
    client.expect(Packet::Suback(1, vec![1]));
    client.send(&packet(0x6a, &[0, 7]));
    client.expect(Packet::Pubcomp(7));
    let mut request = unsubscribe(2, &[&topic]);
    request[0] |= 0b1000;
    client.send(&request);
    client.expect(Packet::Unsuback(2));
}

#[test]
fn mqtt_3_1_2_3_the_reserved_connect_flag_closes() {
    closes(&connect("MQTT", 4, 0b11, &[b"reserved"]));
}

#[test]
fn mqtt_3_1_2_9_a_will_without_its_fields_closes() {
    closes(&connect("MQTT", 4, 0b110, &[b"will"]));
    closes(&connect("MQTT", 4, 0b110, &[b"will", b"topic"]));
}

#[test]
fn mqtt_3_1_2_11_will_fields_without_the_flag_close() {
    closes(&connect("MQTT", 4, 0b10, &[b"will", b"topic", b"payload"]));
}

#[test]
fn mqtt_3_1_2_13_will_qos_without_the_flag_closes() {
    closes(&connect("MQTT", 4, 0b0_1010, &[b"will"]));
    closes(&connect("MQTT", 4, 0b1_0010, &[b"will"]));
}

#[test]
fn mqtt_3_1_2_14_will_qos_3_closes() {
    closes(&connect("MQTT", 4, 0b1_1110, &[b"will", b"topic", b"payload"]));
    for qos in 0..3u8 {
        let id = unique("will-qos");
        accepted(&connect("MQTT", 4, 0b110 | qos << 3, &[id.as_bytes(), b"t", b"p"])).disconnect();
    }
}

#[test]
fn mqtt_3_1_2_15_will_retain_without_the_flag_closes() {
    closes(&connect("MQTT", 4, 0b10_0010, &[b"will"]));
}

#[test]
fn mqtt_3_1_2_18_a_user_name_without_the_flag_closes() {
    closes(&connect("MQTT", 4, 2, &[b"user", b"name"]));
}

#[test]
fn mqtt_3_1_2_19_the_flag_without_a_user_name_closes() {
    closes(&connect("MQTT", 4, 0b1000_0010, &[b"user"]));
}

#[test]
fn mqtt_3_1_2_20_a_password_without_the_flag_closes() {
    closes(&connect("MQTT", 4, 0b1000_0010, &[b"user", b"name", b"password"]));
}

#[test]
fn mqtt_3_1_2_21_the_flag_without_a_password_closes() {
    closes(&connect("MQTT", 4, 0b1100_0010, &[b"user", b"name"]));
    let id = unique("user");
    accepted(&connect("MQTT", 4, 0b1100_0010, &[id.as_bytes(), b"name", b"\xff\0"]));
}

#[test]
fn mqtt_3_1_2_22_a_password_without_user_name_closes() {
    closes(&connect("MQTT", 4, 0b0100_0010, &[b"user", b"password"]));
}

#[test]
fn mqtt_3_1_2_24_keep_alive_times_one_and_a_half() {
    let start = Instant::now();
    let mut silent = Client::connect(shared().mqtt, &Connect::new(&unique("alive")).keep_alive(2));
    let mut pinging = Client::connect(shared().mqtt, &Connect::new(&unique("alive")).keep_alive(2));
    let mut without = shared().client(&unique("alive"));
    // The one that sends within the time stays; the silent one goes after 3 s and not before.
    let closed = loop {
        pinging.ping();
        match silent.recv_within(Duration::from_millis(250)) {
            Ok(None) => assert!(start.elapsed() < Duration::from_secs(20), "still open"),
            Ok(Some(packet)) => panic!("{packet:?}"),
            Err(_) => break start.elapsed(),
        }
    };
    assert!(closed >= Duration::from_millis(2950), "closed after {closed:?}");
    assert!(closed < Duration::from_secs(8), "closed after {closed:?}");
    pinging.ping();
    without.ping();
    shared().wait_closed("keep_alive", 1.0);
}

#[test]
fn mqtt_3_1_2_24_half_a_packet_does_not_keep_alive() {
    let mut client = Client::connect(shared().mqtt, &Connect::new(&unique("alive")).keep_alive(1));
    let start = Instant::now();
    client.send(&[0x30, 100]);
    while client.try_send(b"\0").is_ok() {
        assert!(start.elapsed() < Duration::from_secs(20), "still open");
        if client.recv_within(Duration::from_millis(200)).is_err() {
            break;
        }
    }
}

#[test]
fn mqtt_3_1_3_3_a_missing_client_identifier_closes() {
    closes(&connect("MQTT", 4, 2, &[]));
}

#[test]
fn mqtt_3_1_3_4_a_client_identifier_in_ill_formed_utf8_closes() {
    closes(&connect("MQTT", 4, 2, &[b"\xff\xfe"]));
    closes(&connect("MQTT", 4, 2, &[b"a\0"]));
}

#[test]
fn mqtt_3_1_3_5_one_to_23_letters_and_digits_are_allowed() {
    for id in ["0", "z", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"] {
        shared().client(id).disconnect();
    }
}

#[test]
fn mqtt_3_1_3_6_an_empty_client_identifier_gets_a_unique_one() {
    let mut first = shared().client("");
    let mut second = shared().client("");
    first.ping();
    second.ping();
    first.ping();
}

#[test]
fn mqtt_3_1_3_8_an_empty_client_identifier_without_clean_session_is_refused_with_code_2() {
    refused(&connect("MQTT", 4, 0, &[b""]), 2);
}

#[test]
fn mqtt_3_1_3_9_a_client_identifier_past_the_limit_is_refused_with_code_2() {
    shared().client(&"x".repeat(1024)).disconnect();
    refused(&Connect::new(&"x".repeat(1025)).bytes(), 2);
}

#[test]
fn mqtt_3_1_3_10_a_will_topic_in_ill_formed_utf8_closes() {
    closes(&connect("MQTT", 4, 0b110, &[b"will", b"\xff", b"payload"]));
}

#[test]
fn mqtt_3_1_3_11_a_user_name_in_ill_formed_utf8_closes() {
    closes(&connect("MQTT", 4, 0b1000_0010, &[b"user", b"\xff"]));
}

#[test]
fn mqtt_3_1_4_1_a_connect_that_does_not_conform_gets_no_connack() {
    closes(&packet(0x11, &connect("MQTT", 4, 2, &[b"x"])[2..]));
    closes(&packet(0x10, b""));
    closes(&packet(0x10, &[0, 4, b'M', b'Q', b'T', b'T', 4]));
    closes(&packet(0x10, &[0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0]));
    closes(&packet(0x10, &[&connect("MQTT", 4, 2, &[b"x"])[2..], b"rest"].concat()));
}

#[test]
fn mqtt_3_1_4_2_the_existing_client_of_an_identifier_is_disconnected() {
    let id = unique("twin");
    let taken_over = shared().closed("takeover");
    let mut first = shared().client(&id);
    let mut second = shared().client(&id);
    first.expect_closed();
    let mut third = shared().persistent(&id);
    second.expect_closed();
    third.ping();
    shared().wait_closed("takeover", taken_over + 2.0);
}

#[test]
fn mqtt_3_1_4_3_clean_session_is_processed() {
    let id = unique("clean");
    shared().persistent(&id).disconnect();
    shared().client(&id).disconnect();
    let (_, present) = shared().persistent_present(&id);
    assert!(!present, "the clean session has ended the one before");
}

#[test]
fn mqtt_3_1_4_4_an_accepted_connect_is_answered_with_code_0() {
    accepted(&connect("MQTT", 4, 2, &[unique("code").as_bytes()]));
}

#[test]
fn mqtt_3_1_4_5_nothing_after_a_refused_connect_is_processed() {
    let topic = unique("refused");
    let mut subscriber = shared().client(&unique("refused")).subscribed(&topic, 0);
    let mut bytes = connect("MQTT", 9, 2, &[b"x"]);
    bytes.extend(Publish::new(&topic, b"refused").bytes());
    refused(&bytes, 1);
    let mut publisher = shared().client(&unique("refused"));
    publisher.publish(&topic, "accepted", 1);
    assert_eq!(subscriber.take().text(), "accepted");
}

#[test]
fn section_3_1_4_packets_behind_a_connect_need_not_wait_for_the_connack() {
    let topic = unique("eager");
    for connect in [Connect::new(&unique("eager")), Connect::new(&unique("eager")).persistent()] {
        let mut client = shared().socket();
        let mut bytes = connect.bytes();
        bytes.extend(subscribe(7, &[(&topic, 1)]));
        bytes.extend(Publish::new(&topic, b"x").qos(1).id(8).bytes());
        bytes.extend([0xc0, 0]);
        client.send(&bytes);
        client.expect(ACCEPTED);
        client.wait_for(&Packet::Suback(7, vec![1]));
        client.wait_for(&Packet::Puback(8));
        client.wait_for(&Packet::Pingresp);
        assert_eq!(client.take().text(), "x");
    }
}

/// Also on a socket that has just moved to the worker of its client id, which writes nothing yet.
#[test]
fn a_disconnect_in_the_same_segment_leaves_the_connack() {
    for _ in 0..40 {
        let mut client = shared().socket();
        client.send(&[&Connect::new(&unique("brief")).bytes()[..], &[0xe0, 0]].concat());
        client.expect(ACCEPTED);
        client.expect_closed();
    }
}

#[test]
fn mqtt_3_2_0_1_the_first_packet_of_the_server_is_connack() {
    // A session with messages waiting: they come after the CONNACK.
    let (id, topic) = (unique("connack"), unique("connack"));
    shared().offline(&id, &[(&topic, 1)]);
    shared().client(&unique("connack")).publish(&topic, "waiting", 1);
    let mut subscriber = shared().socket();
    subscriber.send(&Connect::new(&id).persistent().bytes());
    subscriber.expect(Packet::Connack { present: true, code: 0 });
    assert_eq!(subscriber.take().text(), "waiting");
}

#[test]
fn mqtt_3_2_2_1_session_present_is_0_with_clean_session() {
    let id = unique("present");
    shared().persistent(&id).disconnect();
    let (_, present) = Client::connect_present(shared().mqtt, &Connect::new(&id));
    assert!(!present);
}

#[test]
fn mqtt_3_2_2_2_session_present_is_1_with_a_stored_session() {
    let id = unique("present");
    shared().persistent(&id).disconnect();
    let (_, present) = shared().persistent_present(&id);
    assert!(present);
}

#[test]
fn mqtt_3_2_2_3_session_present_is_0_without_a_stored_session() {
    let id = unique("present");
    let (_, present) = shared().persistent_present(&id);
    assert!(!present);
}

#[test]
fn mqtt_3_2_2_4_session_present_is_0_with_another_return_code() {
    // `refused` compares Session Present too; here with an identifier that has a session.
    let id = unique("present");
    shared().persistent(&id).disconnect();
    refused(&connect("MQTT", 5, 0, &[id.as_bytes()]), 1);
}

#[test]
fn mqtt_3_2_2_5_another_return_code_closes() {
    refused(&connect("MQTT", 6, 2, &[b"x"]), 1);
    refused(&connect("MQTT", 4, 0, &[b""]), 2);
}

#[test]
fn mqtt_3_2_2_6_what_no_return_code_fits_closes_without_connack() {
    closes(&connect("AMQP", 4, 2, &[b"x"]));
}

#[test]
fn mqtt_3_12_4_1_pingreq_is_answered_with_pingresp() {
    let mut client = shared().client(&unique("ping"));
    client.send(&[0xc0, 0, 0xc0, 0]);
    client.expect(Packet::Pingresp);
    client.expect(Packet::Pingresp);
}

#[test]
fn mqtt_3_14_1_1_reserved_bits_of_disconnect_close_as_an_error() {
    let (topic, will) = (unique("bye"), unique("bye"));
    let mut watcher = shared().client(&topic).subscribed(&will, 0);
    let mut client =
        Client::connect(shared().mqtt, &Connect::new(&unique("bye")).will(&will, "gone", 0));
    client.send(&[0xe1, 0]);
    client.expect_closed();
    assert_eq!(watcher.take().text(), "gone", "it was no DISCONNECT");
}

#[test]
fn mqtt_3_14_4_2_nothing_after_disconnect_is_processed() {
    let topic = unique("after");
    let mut subscriber = shared().client(&unique("after")).subscribed(&topic, 0);
    let mut client = shared().client(&unique("after"));
    let mut bytes = vec![0xe0, 0];
    bytes.extend(Publish::new(&topic, b"after").bytes());
    client.send(&bytes);
    client.expect_closed();
    shared().client(&unique("after")).publish(&topic, "later", 1);
    assert_eq!(subscriber.take().text(), "later");
}
