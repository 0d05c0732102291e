//! Bytes of a peer at a link, in both roles, before and after the handshake: nothing panics, frames
//! come in order and within the window, a link that has failed takes nothing more, and the next
//! connection works.

#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use hydrant_protocol::cluster::link::{
    Class, Config, Event, Hello, Identity, Link, LinkError, MAX_HELLO, Relay, Role,
};
use libfuzzer_sys::fuzz_target;

const MAX_FRAME: u32 = 1000;
const WINDOW: u32 = 8;

fn link(me: &str, peer: &str, incarnation: u64) -> Link {
    let config = Config {
        max_frame_bytes: MAX_FRAME,
        window_frames: WINDOW,
        window_bytes: 0,
        ..Config::default()
    };
    let me = Identity { cluster: Arc::from("c"), node_id: Arc::from(me), incarnation };
    Link::new(config, me, Arc::from(peer))
}

fn transmit(link: &mut Link, now: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while link.transmit(now, &mut out, 700) > 0 {}
    out
}

/// The link "a" with a good peer "b" at the other end, until they have greeted.
fn greet(link: &mut Link, incarnation: u64, role: Role, now: u64) {
    let mut peer = self::link("b", "a", incarnation);
    link.connected(now, role);
    peer.connected(now, if role == Role::Dialer { Role::Acceptor } else { Role::Dialer });
    for _ in 0..2 {
        let hello = transmit(link, now);
        if !hello.is_empty() {
            peer.receive(now, &hello).expect("what a link writes is right");
        }
        let hello = transmit(&mut peer, now);
        if !hello.is_empty() {
            link.receive(now, &hello).expect("a good peer is taken");
        }
    }
    assert!(link.is_up());
}

// The first byte: role, whether the handshake is done, how long the pieces are.
fuzz_target!(|input: &[u8]| {
    let Some((&how, input)) = input.split_first() else {
        return;
    };
    let role = if how & 1 == 0 { Role::Dialer } else { Role::Acceptor };
    let mut link = link("a", "b", 1);
    let mut now = 0;
    if how & 2 == 0 {
        if let Ok(Some((_, end))) = Relay::peek(input) {
            assert!(end <= input.len());
        }
        link.connected(now, role);
        if let Err(error) = Hello::peek(input) {
            assert!(link.receive(now, input).is_err(), "{error}");
            link.connected(now, role);
        }
    } else {
        greet(&mut link, 5, role, now);
    }
    for n in 0..3 {
        let body = Bytes::from(vec![n; 100]);
        assert!(link.send(Class::Data, n, body).is_ok());
    }
    let mut last = 0;
    let (mut held, mut held_bytes) = (0, 0);
    for piece in input.chunks(usize::from(how >> 2) + 1) {
        now += 3;
        let result = link.receive(now, piece);
        while let Some(event) = link.poll_event() {
            if let Event::Frame { sequence, body, .. } = event {
                last += 1;
                assert_eq!(sequence, last);
                held += 1;
                held_bytes += body.len() as u64;
                assert!(held <= u64::from(WINDOW) && held_bytes <= u64::from(MAX_FRAME));
            }
        }
        let out = transmit(&mut link, now);
        assert!(out.len() < MAX_HELLO as usize);
        if let Err(error) = result {
            assert!(!error.to_string().is_empty() && !link.is_up());
            assert_eq!(link.receive(now, b"x"), Err(LinkError::NotConnected));
            break;
        }
        if link.next_timeout().is_some_and(|at| now >= at) && link.handle_timeout(now).is_err() {
            break;
        }
        if held > 4 {
            link.consumed(now, link.peer_incarnation().unwrap_or(0), held, held_bytes);
            (held, held_bytes) = (0, 0);
        }
    }
    link.disconnected(now);
    // Its highest incarnation leaves no room for another.
    if let Some(incarnation) = link.peer_incarnation().unwrap_or(0).checked_add(1) {
        greet(&mut link, incarnation, role, now);
        assert!(link.take_unacknowledged().len() <= 3);
    }
});
