//! Hello, framing, and who is refused.

use std::sync::Arc;

use super::*;

#[test]
fn a_hello_of_another_program_cluster_or_node_is_refused() {
    let mut other = bytes(&hello("b", 5));
    other[5] = b'h';
    assert_eq!(refused(&other), LinkError::NotAPeer);
    let cluster = Hello { cluster: "d\n".into(), ..hello("b", 5) };
    let error = refused(&bytes(&cluster));
    assert_eq!(error, LinkError::WrongCluster { ours: "c".into(), theirs: "d\n".into() });
    assert!(!error.to_string().contains('\n'));
    assert_eq!(refused(&bytes(&hello("a", 5))), LinkError::OwnNodeId("a".into()));
    assert_eq!(
        refused(&bytes(&hello("x", 5))),
        LinkError::WrongNodeId { expected: "b".into(), theirs: "x".into() }
    );
}

#[test]
fn versions_meet_or_the_hello_is_refused() {
    let (lowest, highest) = VERSIONS;
    for theirs in [(highest + 1, 9), (0, lowest - 1), (lowest, lowest - 1)] {
        // What follows the versions may be anything then.
        let mut input = bytes(&Hello { versions: theirs, ..hello("b", 5) });
        input.truncate(13);
        input[3] = 9;
        assert_eq!(refused(&input), LinkError::NoCommonVersion { ours: VERSIONS, theirs });
    }
    let negotiate = super::super::hello::negotiate;
    assert_eq!(negotiate((1, 3), (2, 5)), Some(3));
    assert_eq!(negotiate((4, 6), (2, 5)), Some(5));
    assert_eq!(negotiate((1, 2), (3, 5)), None);
}

/// A node of the next release: versions 2 to 3, and fields that this one does not know.
#[test]
fn a_hello_of_the_next_version_is_understood() {
    let mut body = b"HYDR\0\x03\0\x04\x01c\x01b".to_vec();
    body.extend_from_slice(&5_u64.to_be_bytes());
    body.extend_from_slice(&[0; 16]);
    body.extend_from_slice(&16_u32.to_be_bytes());
    body.extend_from_slice(&8000_u64.to_be_bytes());
    body.extend_from_slice(b"zone=eu-1");
    let input = frame(kind::HELLO, &body);
    assert_eq!(Hello::peek(&input).unwrap().unwrap().versions, (3, 4));
    let mut link = link("a", "b", 1);
    link.connected(0, Role::Acceptor);
    assert_eq!(transmit(&mut link, 0), []);
    link.receive(0, &input).unwrap();
    assert_eq!(link.poll_event(), Some(Event::Up { incarnation: 5, version: 3 }));
    assert!(transmit(&mut link, 0).starts_with(&bytes(&Hello {
        resume: Resume { incarnation: 5, sequence: 0 },
        ..hello("a", 1)
    })));
}

#[test]
fn an_acceptor_can_read_who_dials_before_it_has_a_link() {
    let input = bytes(&hello("b", 5));
    for cut in 0..input.len() {
        assert_eq!(Hello::peek(&input[..cut]), Ok(None));
    }
    assert_eq!(Hello::peek(&input), Ok(Some(hello("b", 5))));
    assert_eq!(Hello::peek(&frame(9, b"")), Err(LinkError::HelloExpected(9)));
}

/// So that both can say what is wrong.
#[test]
fn a_dialler_that_is_refused_gets_the_hello_too() {
    let mut acceptor = link("a", "b", 1);
    acceptor.connected(0, Role::Acceptor);
    let dialler = Hello { cluster: "d".into(), ..hello("b", 5) };
    acceptor.receive(0, &bytes(&dialler)).unwrap_err();
    assert_eq!(transmit(&mut acceptor, 0), bytes(&hello("a", 1)));
    assert_eq!(transmit(&mut acceptor, 0), []);
}

#[test]
fn an_incarnation_before_a_known_one_is_refused() {
    let mut link = up();
    let error = link.check(&hello("b", 4)).unwrap_err();
    assert!(link.is_up());
    link.connected(0, Role::Acceptor);
    assert_eq!(link.receive(0, &bytes(&hello("b", 4))), Err(error.clone()));
    assert_eq!(error, LinkError::OlderIncarnation { node_id: "b".into(), known: 5, theirs: 4 });
    // The older one hears it as well.
    let answer = transmit(&mut link, 0);
    let mut old = super::link("b", "a", 4);
    old.connected(0, Role::Dialer);
    let error = old.receive(0, &answer).unwrap_err();
    assert_eq!(error, LinkError::Superseded { ours: 4, theirs: 5 });
}

#[test]
fn a_resume_point_that_cannot_be_is_refused() {
    let resume = |sequence| {
        let mut link = up();
        for _ in 0..3 {
            link.send(Class::Data, 1, Bytes::from_static(b"x")).unwrap();
        }
        transmit(&mut link, 0);
        link.receive(0, &ack(2, 16, 8000)).unwrap();
        link.send(Class::Data, 1, Bytes::from_static(b"never sent")).unwrap();
        link.connected(0, Role::Acceptor);
        let resume = Resume { incarnation: 1, sequence };
        link.receive(0, &bytes(&Hello { resume, ..hello("b", 5) }))
    };
    assert_eq!(resume(2), Ok(()));
    assert_eq!(resume(3), Ok(()));
    for theirs in [0, 1, 4] {
        let node_id = Arc::from("b");
        assert_eq!(
            resume(theirs),
            Err(LinkError::ResumeMismatch { node_id, theirs, acknowledged: 2, sent: 3 })
        );
    }
}

#[test]
fn a_handshake_that_dawdles_ends() {
    let mut link = link("a", "b", 1);
    link.connected(100, Role::Acceptor);
    let hello = bytes(&hello("b", 5));
    for (n, byte) in hello[..40].iter().enumerate() {
        link.receive(100 + 120 * n as u64, &[*byte]).unwrap();
        link.handle_timeout(100 + 120 * n as u64).unwrap();
    }
    assert_eq!(link.next_timeout(), Some(5100));
    assert_eq!(link.handle_timeout(5099), Ok(()));
    assert_eq!(link.handle_timeout(5100), Err(LinkError::HandshakeTimeout(5000)));
    assert_eq!(link.next_timeout(), None);
}

#[test]
fn framing_errors_end_the_connection() {
    assert_eq!(refused(&frame(kind::PING, b"")), LinkError::HelloExpected(kind::PING));
    let large = LinkError::FrameTooLarge { len: 4097, max: MAX_HELLO };
    assert_eq!(refused(&4097_u32.to_be_bytes()), large);
    let http = LinkError::FrameTooLarge { len: u32::from_be_bytes(*b"GET "), max: MAX_HELLO };
    assert_eq!(refused(b"GET / HTTP/1.1\r\n"), http);
    let large = LinkError::FrameTooLarge { len: 5001, max: 5000 };
    assert_eq!(broken(&5001_u32.to_be_bytes()), large);
    assert_eq!(broken(&[0; 4]), LinkError::EmptyFrame);
    assert_eq!(broken(&frame(99, b"")), LinkError::UnknownKind(99));
    assert_eq!(broken(&frame(kind::PING, b"x")), LinkError::Malformed("ping"));
    assert_eq!(broken(&frame(kind::ACK, &[0; 23])), LinkError::Malformed("acknowledgement"));
    assert_eq!(broken(&frame(kind::ACK, &[0; 25])), LinkError::Malformed("acknowledgement"));
    assert_eq!(broken(&frame(kind::DATA, &[0; 8])), LinkError::Malformed("data frame"));
    assert_eq!(broken(&bytes(&hello("b", 5))), LinkError::HelloTwice);
    let whole = bytes(&hello("b", 5));
    for cut in 13..whole.len() {
        assert_eq!(
            refused(&frame(kind::HELLO, &whole[5..cut])),
            LinkError::Malformed("hello"),
            "{cut}"
        );
    }
    for no_window in
        [Hello { window_frames: 0, ..hello("b", 5) }, Hello { window_bytes: 0, ..hello("b", 5) }]
    {
        assert_eq!(refused(&bytes(&no_window)), LinkError::Malformed("hello"));
    }
}
