//! Each rule and each error of a link, in virtual time; here what both halves need, and garbage.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;

use super::frame::{Ack, Assembler, kind, put_data, put_head};
use super::*;

mod handshake;
mod stream;

const CONFIG: Config = Config {
    max_frame_bytes: 5000,
    window_frames: 16,
    window_bytes: 8000,
    handshake_timeout: 5000,
    ping_interval: 1000,
    dead_after: 3000,
    ack_delay: 10,
    ack_every: 4,
};

fn link(me: &str, peer: &str, incarnation: u64) -> Link {
    let me = Identity { cluster: "c".into(), node_id: me.into(), incarnation };
    Link::new(CONFIG, me, peer.into())
}

fn hello(node_id: &str, incarnation: u64) -> Hello {
    Hello {
        versions: VERSIONS,
        cluster: "c".into(),
        node_id: node_id.into(),
        incarnation,
        resume: Resume::default(),
        window_frames: 16,
        window_bytes: 8000,
    }
}

fn bytes(hello: &Hello) -> Vec<u8> {
    let mut out = Vec::new();
    hello.put(&mut out);
    out
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_head(&mut out, kind, body.len());
    out.extend_from_slice(body);
    out
}

fn data(sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_data(&mut out, sequence, 7, body);
    out
}

fn ack(received: u64, granted_frames: u64, granted_bytes: u64) -> Vec<u8> {
    let mut out = Vec::new();
    Ack { received, granted_frames, granted_bytes }.put(&mut out);
    out
}

fn transmit(link: &mut Link, now: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while link.transmit(now, &mut out, 1 << 16) > 0 {}
    out
}

fn events(link: &mut Link) -> Vec<Event> {
    std::iter::from_fn(|| link.poll_event()).collect()
}

/// "a" (incarnation 1) with a raw "b" (incarnation 5) at the other end, at time 0.
fn up() -> Link {
    let mut link = link("a", "b", 1);
    link.connected(0, Role::Dialer);
    transmit(&mut link, 0);
    link.receive(0, &bytes(&hello("b", 5))).unwrap();
    assert_eq!(
        events(&mut link),
        [Event::Up { incarnation: 5, version: VERSIONS.1 }, Event::RoomAgain]
    );
    assert_eq!(transmit(&mut link, 0), ack(0, 16, 8000));
    link
}

/// What the link says to a peer that sends this first.
fn refused(first: &[u8]) -> LinkError {
    let mut link = link("a", "b", 3);
    link.connected(0, Role::Acceptor);
    let error = link.receive(0, first).unwrap_err();
    assert!(!link.is_up() && link.next_timeout().is_none());
    assert_eq!(link.receive(0, b"more"), Err(LinkError::NotConnected));
    link.disconnected(0);
    assert_eq!(events(&mut link), []);
    error
}

/// What it says to one that is up.
fn broken(input: &[u8]) -> LinkError {
    let mut link = up();
    let error = link.receive(0, input).unwrap_err();
    assert_eq!(transmit(&mut link, 5000), []);
    link.disconnected(0);
    assert_eq!(events(&mut link).pop(), Some(Event::Down));
    error
}

/// Both ends until neither has anything to say.
fn talk(a: &mut Link, b: &mut Link, now: u64) {
    loop {
        let from_a = transmit(a, now);
        let from_b = transmit(b, now);
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        if !from_a.is_empty() {
            b.receive(now, &from_a).unwrap();
        }
        if !from_b.is_empty() {
            a.receive(now, &from_b).unwrap();
        }
    }
}

fn connect(a: &mut Link, b: &mut Link, now: u64) {
    a.connected(now, Role::Dialer);
    b.connected(now, Role::Acceptor);
    talk(a, b, now);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Frames come out of any pieces as they went in, and no more is kept than one frame.
    #[test]
    fn pieces_make_the_same_frames(
        frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        pieces in prop::collection::vec(1_usize..30, 1..50),
    ) {
        let wire: Vec<u8> = frames.iter().flat_map(|(kind, body)| frame(*kind, body)).collect();
        let mut assembler = Assembler::default();
        let mut found = Vec::new();
        let mut rest = &wire[..];
        for len in pieces.iter().cycle() {
            let (mut piece, tail) = rest.split_at((*len).min(rest.len()));
            rest = tail;
            while let Some((kind, body)) = assembler.next_frame(&mut piece, 41).unwrap() {
                found.push((kind, body.into_bytes(0).to_vec()));
            }
            prop_assert!(assembler.kept() < 45);
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(found, frames);
        prop_assert_eq!(assembler.kept(), 0);
    }

    /// Whatever comes after the connection, or after the handshake: an error or nothing, no panic,
    /// and the next connection works.
    #[test]
    fn garbage_never_panics(
        input in prop::collection::vec(any::<u8>(), 0..300),
        acceptor: bool,
        greeted: bool,
        piece in 1_usize..64,
    ) {
        let mut link = link("a", "b", 1);
        link.connected(0, if acceptor { Role::Acceptor } else { Role::Dialer });
        if greeted {
            link.receive(0, &bytes(&hello("b", 5))).unwrap();
        }
        let result = input.chunks(piece).try_for_each(|piece| link.receive(0, piece));
        // Random lengths are out of bounds nearly always.
        let len = input.first_chunk().map_or(0, |len| u32::from_be_bytes(*len));
        prop_assert!(result.is_err() || input.len() < 4 || (1..=5000).contains(&len));
        transmit(&mut link, 0);
        let incarnation = link.peer_incarnation().unwrap_or(0) + 1;
        link.connected(0, Role::Acceptor);
        events(&mut link);
        link.receive(0, &bytes(&hello("b", incarnation))).unwrap();
        prop_assert!(link.is_up());
    }

    /// The same for frames that are well-formed on the outside.
    #[test]
    fn frames_of_garbage_never_panic(
        frames in prop::collection::vec((1_u8..6, prop::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..40)), 0..20),
        mut window in any::<u64>(),
    ) {
        let mut link = link("a", "b", 1);
        link.connected(0, Role::Dialer);
        window = window.max(1);
        let greeting = Hello { window_bytes: window, window_frames: u32::MAX, ..hello("b", 5) };
        link.receive(0, &bytes(&greeting)).unwrap();
        link.send(Class::Data, 1, Bytes::from_static(b"x")).unwrap();
        transmit(&mut link, 0);
        for (kind, body) in frames {
            if link.receive(0, &frame(kind, &body)).is_err() {
                break;
            }
            link.consumed(0, 5, 1, body.len() as u64);
            transmit(&mut link, 0);
        }
    }
}
