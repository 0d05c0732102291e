//! What the log says of connections that are refused or cut: a line a reason every 10 s, with an example.

use std::fmt;

use hydrant_protocol::Violation;

use crate::metrics::CloseReason;
use crate::say::{Level, Reason};

use super::Conn;

const TARGET: &str = "hydrant::mqtt";

/// What speaks no MQTT at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stranger {
    Tls,
    Http,
    Proxy,
}

impl Stranger {
    /// What the first bytes of a connection are, if they are no CONNECT.
    fn of(input: &[u8]) -> Option<Self> {
        const METHODS: [&[u8]; 9] =
            [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"CONN", b"OPTI", b"PATC", b"PRI "];
        match input {
            [0x16, 0x03, ..] => Some(Self::Tls),
            _ if input.starts_with(b"PROX") || input.starts_with(b"\r\n\r\n") => Some(Self::Proxy),
            _ if METHODS.iter().any(|method| input.starts_with(method)) => Some(Self::Http),
            _ => None,
        }
    }

    fn wording(self) -> &'static str {
        match self {
            Self::Tls => {
                "it speaks TLS (a ClientHello), and this port is MQTT without TLS: switch TLS off in the client, or put a proxy that ends TLS in front"
            }
            Self::Http => {
                "it speaks HTTP, and this port is MQTT: metrics and probes are on admin.address, and there is no WebSocket"
            }
            Self::Proxy => {
                "it sends a PROXY header: set listener.proxy_protocol = \"required\", or switch the header off in the proxy"
            }
        }
    }
}

/// Whether these bytes may be the beginning of a CONNECT.
pub fn may_be_connect(input: &[u8]) -> bool {
    input.first().is_none_or(|first| first >> 4 == 1)
}

/// MQTT's protocol level in a CONNECT, when it is MQTT 5.
fn is_mqtt5(input: &[u8]) -> bool {
    // Behind one to four bytes of length: the name, and the level.
    (2..=5).any(|at| input.get(at..at + 7) == Some(b"\0\x04MQTT\x05"))
}

/// A packet breaks the standard or meets a limit; `input` begins with it, or is empty.
pub fn say(conn: &Conn, violation: Violation, input: &[u8]) {
    static REASONS: [Reason; Violation::ALL.len()] =
        [const { Reason::new() }; Violation::ALL.len()];
    static MQTT5: Reason = Reason::new();
    static STRANGERS: [Reason; 3] = [const { Reason::new() }; 3];
    let closing = |reason: &'static Reason, level, why: fmt::Arguments<'_>| {
        reason.say_swept(level, TARGET, format_args!("closing {}: {why}", conn.who()));
    };
    if !conn.phase().is_connected()
        && let Some(stranger) = Stranger::of(input)
    {
        closing(&STRANGERS[stranger as usize], Level::Warn, format_args!("{}", stranger.wording()));
        return;
    }
    if violation == Violation::UnacceptableProtocolLevel && is_mqtt5(input) {
        let why = "it speaks MQTT 5, and this broker MQTT 3.1.1 and 3.1: set the client to 3.1.1";
        closing(&MQTT5, Level::Warn, format_args!("{why}"));
    } else {
        closing(&REASONS[violation as usize], Level::Warn, format_args!("{violation}"));
    }
}

/// A connection was cut by a clock. Other ends are the client's wish, or have lines of their own.
pub fn say_cut(conn: &Conn, reason: CloseReason) {
    static REASONS: [Reason; CloseReason::ALL.len()] =
        [const { Reason::new() }; CloseReason::ALL.len()];
    let why = match reason {
        CloseReason::ConnectTimeout => "no CONNECT came within limits.connect_timeout",
        CloseReason::KeepAlive => "nothing came for one and a half times its keep-alive",
        CloseReason::PacketTimeout => {
            "a packet was not complete within limits.packet_timeout, or came too slowly"
        }
        CloseReason::WriteTimeout => "its socket took nothing for limits.write_timeout",
        _ => return,
    };
    let line = format_args!("closing {}: {why}", conn.who());
    REASONS[reason as usize].say_swept(Level::Info, TARGET, line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_known_by_their_first_bytes() {
        assert_eq!(Stranger::of(b"\x16\x03\x01\x02\0\x01\0"), Some(Stranger::Tls));
        assert_eq!(Stranger::of(b"GET / HTTP/1.1\r\n"), Some(Stranger::Http));
        assert_eq!(Stranger::of(b"OPTIONS * HTTP/1.1\r\n"), Some(Stranger::Http));
        assert_eq!(Stranger::of(b"PROXY TCP4 1.2.3.4"), Some(Stranger::Proxy));
        assert_eq!(Stranger::of(b"\r\n\r\n\0\r\nQUIT\n"), Some(Stranger::Proxy));
        assert_eq!(Stranger::of(b"\x10\x0c\0\x04MQTT\x04"), None);
        assert_eq!(Stranger::of(b""), None);
    }

    #[test]
    fn mqtt5_is_known_by_its_level_behind_any_length() {
        assert!(is_mqtt5(b"\x10\x0c\0\x04MQTT\x05\x02"));
        assert!(is_mqtt5(b"\x10\x8c\x01\0\x04MQTT\x05\x02"));
        assert!(!is_mqtt5(b"\x10\x0c\0\x04MQTT\x06\x02"));
        assert!(!is_mqtt5(b"\x10"));
        assert!(may_be_connect(b"") && may_be_connect(b"\x1f") && !may_be_connect(b"\x20"));
    }
}
