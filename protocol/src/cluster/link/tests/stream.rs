//! Both streams, credit, acknowledgements and heartbeats.

use super::*;

#[test]
fn stream_errors_end_the_connection() {
    assert_eq!(broken(&data(2, b"")), LinkError::Gap { expected: 1, got: 2 });
    let seventeen: Vec<u8> = (1..=17).flat_map(|n| data(n, b"x")).collect();
    assert_eq!(broken(&seventeen), LinkError::CreditExceeded(17));
    let large = [data(1, &[0; 4000]), data(2, &[0; 4000]), data(3, b"x")].concat();
    assert_eq!(broken(&large), LinkError::CreditExceeded(3));
    assert_eq!(broken(&ack(1, 16, 8000)), LinkError::AckOutOfRange { got: 1, from: 0, to: 0 });
    assert_eq!(broken(&ack(0, 17, 8000)), LinkError::GrantOutOfRange);
    assert_eq!(broken(&ack(0, 16, 8001)), LinkError::GrantOutOfRange);
    let mut link = up();
    assert_eq!(
        link.send(Class::Data, 1, vec![0; 4991].into()),
        Err(LinkError::BodyTooLarge { len: 4991, max: 4990 })
    );
    assert_eq!(link.send(Class::Data, 1, vec![0; 4990].into()), Ok(1));
    transmit(&mut link, 0);
    link.receive(0, &ack(1, 17, 12_000)).unwrap();
    let error = link.receive(0, &ack(0, 17, 12_000)).unwrap_err();
    assert_eq!(error, LinkError::AckOutOfRange { got: 0, from: 1, to: 1 });
}

#[test]
fn a_frame_that_came_before_is_dropped() {
    let mut link = up();
    let input = [data(1, b"x"), data(1, b"x"), data(2, b"y")].concat();
    link.receive(0, &input).unwrap();
    let body = |text: &'static [u8]| Bytes::from_static(text);
    assert_eq!(
        events(&mut link),
        [
            Event::Frame { sequence: 1, kind: 7, body: body(b"x") },
            Event::Frame { sequence: 2, kind: 7, body: body(b"y") },
        ]
    );
    let LinkStats { frames_in, bytes_in, duplicates, .. } = link.stats();
    assert_eq!((frames_in, bytes_in, duplicates), (2, 2, 1));
}

#[test]
fn after_a_cut_only_what_the_peer_lacks_is_sent_again() {
    let (mut a, mut b) = (link("a", "b", 1), link("b", "a", 5));
    connect(&mut a, &mut b, 0);
    events(&mut a);
    events(&mut b);
    for n in 0..5_u8 {
        a.send(Class::Data, n, vec![n; 100].into()).unwrap();
    }
    let wire = transmit(&mut a, 0);
    // Two frames and half of the third; b's acknowledgement is lost.
    b.receive(0, &wire[..2 * 114 + 50]).unwrap();
    transmit(&mut b, 10);
    a.disconnected(20);
    b.disconnected(20);
    a.send(Class::Data, 5, vec![5; 100].into()).unwrap();
    connect(&mut a, &mut b, 20);
    let kinds: Vec<u8> = events(&mut b)
        .iter()
        .filter_map(|event| if let Event::Frame { kind, .. } = event { Some(*kind) } else { None })
        .collect();
    assert_eq!(kinds, [0, 1, 2, 3, 4, 5]);
    assert_eq!(events(&mut a), [Event::Down, Event::Up { incarnation: 5, version: VERSIONS.1 }]);
    let stats = a.stats();
    assert_eq!((stats.frames_out, stats.resent, stats.reconnects), (6, 3, 1));
    assert_eq!(b.stats().duplicates, 0);
    assert_eq!(a.unacknowledged(), (0, 0));
}

#[test]
fn a_restarted_peer_gives_back_what_it_had_not_acknowledged() {
    let mut link = up();
    for n in 1..=20 {
        link.send(Class::Data, n, vec![n].into()).unwrap();
    }
    transmit(&mut link, 0);
    link.receive(0, &ack(3, 16, 8000)).unwrap();
    link.receive(0, &data(1, b"before")).unwrap();
    events(&mut link);
    // It speaks of this incarnation, which a new one cannot know of.
    link.connected(1, Role::Dialer);
    let resume = Resume { incarnation: 1, sequence: 4 };
    link.receive(1, &bytes(&Hello { resume, ..hello("b", 6) })).unwrap_err();
    assert_eq!((link.peer_incarnation(), link.unacknowledged()), (Some(5), (17, 17)));
    link.connected(1, Role::Dialer);
    link.receive(1, &bytes(&hello("b", 6))).unwrap();
    assert_eq!(
        events(&mut link),
        [
            Event::Down,
            Event::PeerRestarted { old: 5, new: 6 },
            Event::Up { incarnation: 6, version: VERSIONS.1 },
            Event::RoomAgain,
        ]
    );
    let lost = link.take_unacknowledged();
    let sequences: Vec<u64> = lost.iter().map(|frame| frame.sequence).collect();
    assert_eq!(sequences, (4..=20).collect::<Vec<_>>());
    assert!(lost.iter().all(|frame| frame.sent == (frame.sequence <= 16)));
    assert!(lost.iter().all(|frame| frame.body[..] == [frame.kind]));
    assert_eq!(link.take_unacknowledged(), []);
    // Both begin anew, and what is consumed of the old stream is no credit of the new one.
    assert_eq!(link.send(Class::Data, 1, Bytes::new()), Ok(1));
    link.receive(1, &data(1, b"after")).unwrap();
    link.consumed(1, 5, 1, 6);
    let out = transmit(&mut link, 1);
    assert!(
        out.ends_with(&[ack(1, 16, 8000), frame(kind::DATA, b"\0\0\0\0\0\0\0\x01\x01")].concat())
    );
}

#[test]
fn credit_is_kept_and_comes_back_with_consumption() {
    let (mut a, mut b) = (link("a", "b", 1), link("b", "a", 5));
    assert!(!a.has_room(Class::Control));
    connect(&mut a, &mut b, 0);
    events(&mut a);
    events(&mut b);
    assert_eq!(a.room(Class::Control), (16, 8000));
    assert_eq!(a.room(Class::Data), (14, 7000));
    let mut sent = 0;
    while a.has_room(Class::Data) {
        sent = a.send(Class::Data, 0, Bytes::from_static(b"x")).unwrap();
    }
    assert_eq!(sent, 14);
    // The reserve is for control alone; what goes beyond waits, counted.
    while a.has_room(Class::Control) {
        sent = a.send(Class::Control, 1, Bytes::from_static(b"x")).unwrap();
    }
    assert_eq!((sent, a.stats().past_bound, a.stats().without_room), (16, 0, 1));
    for _ in 0..4 {
        a.send(Class::Data, 2, Bytes::from_static(b"x")).unwrap();
    }
    assert_eq!(a.stats().past_bound, 4);
    talk(&mut a, &mut b, 0);
    assert_eq!(events(&mut b).len(), 16);
    assert_eq!(a.unacknowledged(), (4, 4));
    b.consumed(1, 1, 11, 11);
    talk(&mut a, &mut b, 1);
    assert_eq!(events(&mut b).len(), 4);
    // 9 are not consumed: half of the window is not free yet.
    assert_eq!(events(&mut a), []);
    b.consumed(2, 1, 1, 1);
    b.handle_timeout(12).unwrap();
    talk(&mut a, &mut b, 12);
    assert_eq!(events(&mut a), [Event::RoomAgain]);
    // What has not come cannot be consumed.
    b.consumed(13, 1, u64::MAX, u64::MAX);
    talk(&mut a, &mut b, 13);
    assert_eq!(a.room(Class::Control), (16, 8000));
}

#[test]
fn bytes_are_credit_too() {
    let (mut a, mut b) = (link("a", "b", 1), link("b", "a", 5));
    connect(&mut a, &mut b, 0);
    events(&mut b);
    for _ in 0..3 {
        assert!(a.has_room(Class::Data));
        a.send(Class::Data, 0, vec![0; 3000].into()).unwrap();
    }
    assert!(!a.has_room(Class::Control));
    talk(&mut a, &mut b, 0);
    assert_eq!(events(&mut b).len(), 2);
    b.consumed(1, 1, 1, 3000);
    talk(&mut a, &mut b, 1);
    assert_eq!(events(&mut b).len(), 1);
}

#[test]
fn acknowledgements_go_with_frames_or_after_their_delay() {
    let mut link = up();
    for n in 1..=3 {
        link.receive(100, &data(n, b"")).unwrap();
    }
    assert_eq!(transmit(&mut link, 100), []);
    assert_eq!(link.next_timeout(), Some(110));
    link.handle_timeout(110).unwrap();
    assert_eq!(link.next_timeout(), Some(1000));
    assert_eq!(transmit(&mut link, 110), ack(3, 16, 8000));
    link.receive(200, &data(4, b"")).unwrap();
    link.send(Class::Data, 7, Bytes::new()).unwrap();
    assert_eq!(transmit(&mut link, 200), [ack(4, 16, 8000), data(1, b"")].concat());
    // Nothing is left to tell: a ping is next.
    assert_eq!(link.next_timeout(), Some(1200));
    for n in 5..=8 {
        link.receive(300, &data(n, b"")).unwrap();
    }
    assert_eq!(transmit(&mut link, 300), ack(8, 16, 8000));
    link.consumed(300, 5, 4, 0);
    assert_eq!(transmit(&mut link, 300), ack(8, 20, 8000));
}

#[test]
fn a_silent_link_pings_and_a_silent_peer_is_dead() {
    let mut link = up();
    assert_eq!(link.next_timeout(), Some(1000));
    for now in [1000, 2000] {
        link.handle_timeout(now).unwrap();
        // Until the socket takes the ping, only the peer's silence counts.
        assert_eq!(link.next_timeout(), Some(3000));
        assert_eq!(transmit(&mut link, now), frame(kind::PING, b""));
        assert_eq!(link.next_timeout(), Some(now + 1000));
    }
    link.receive(2500, &frame(kind::PING, b"")).unwrap();
    for now in [3000, 4000, 5000] {
        link.handle_timeout(now).unwrap();
        transmit(&mut link, now);
        assert_eq!(events(&mut link), []);
    }
    assert_eq!(link.next_timeout(), Some(5500));
    link.handle_timeout(5500).unwrap();
    assert_eq!(events(&mut link), [Event::Dead]);
    assert_eq!(link.next_timeout(), None);
    assert_eq!(transmit(&mut link, 5500), []);
    link.disconnected(5500);
    assert_eq!(events(&mut link), [Event::Down]);
}

#[test]
fn a_process_that_stood_still_listens_first() {
    let mut link = up();
    link.handle_timeout(60_000).unwrap();
    assert_eq!(events(&mut link), []);
    assert_eq!(transmit(&mut link, 60_000), frame(kind::PING, b""));
    assert_eq!(link.next_timeout(), Some(61_000));
    link.handle_timeout(61_000).unwrap();
    assert_eq!(events(&mut link), [Event::Dead]);
}

#[test]
fn transmit_keeps_to_the_size_asked_for() {
    let mut link = up();
    for _ in 0..3 {
        link.send(Class::Data, 1, vec![0; 1000].into()).unwrap();
    }
    let mut out = vec![1; 10];
    assert_eq!(link.transmit(0, &mut out, 2500), 2028);
    assert_eq!(link.transmit(0, &mut out, 5), 1014);
    assert_eq!(link.transmit(0, &mut out, 5), 0);
    assert_eq!(out.len(), 10 + 2028 + 1014);
}

#[test]
fn a_new_connection_replaces_one_that_nobody_closed() {
    let mut link = up();
    link.receive(0, &data(1, &[0; 100])[..50]).unwrap();
    link.connected(0, Role::Acceptor);
    assert_eq!(events(&mut link), [Event::Down]);
    link.receive(0, &bytes(&hello("b", 5))).unwrap();
    assert_eq!(events(&mut link), [Event::Up { incarnation: 5, version: VERSIONS.1 }]);
}
