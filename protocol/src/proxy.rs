//! The PROXY protocol, versions 1 and 2: what a load balancer in TCP mode sends before the client's
//! first byte, so that the server learns the client's address (HAProxy's `proxy-protocol.txt`).
//!
//! The parser is the crate `ppp`; here stands what it leaves open: when to wait for more, the bound,
//! and which address counts. TLVs of version 2 are skipped, a CRC32C among them is not checked: TCP
//! has a sum of its own. A datagram's or a unix socket's address is none of a client of ours.
//!
//! Bounds: a header of version 1 is at most [`MAX_V1`] bytes, one of version 2 at most [`MAX_V2`].

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

use crate::access::canonical;

/// Bytes of a header of version 1, its end of line included (`proxy-protocol.txt` 2.1).
pub const MAX_V1: usize = 107;
/// Bytes of a header of version 2: the addresses, and room for TLVs (those of HAProxy with a client
/// certificate's name stay far below).
pub const MAX_V2: usize = 4096;

/// Bytes of a header of version 2 before the part whose length they say.
const V2_HEAD: usize = 16;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// That of this client; IPv4 in IPv6 clothes is IPv4.
    Client(SocketAddr),
    /// Somebody's whom the header does not name (UNKNOWN, a unix socket): the socket's own address
    /// counts.
    Unknown,
    /// The load balancer's own, a health check (LOCAL): it is to be accepted (2.2).
    Local,
}

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whose connection it is.
    pub origin: Origin,
    /// Bytes of the header; the client's begin behind it.
    pub len: usize,
}

/// What stands first on the connection is not a header that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Neither signature: mostly a client that came without the load balancer.
    #[error("it does not begin with a PROXY protocol header")]
    NoHeader,
    /// Past [`MAX_V1`] or [`MAX_V2`].
    #[error("its PROXY protocol header is longer than {0} bytes")]
    TooLong(usize),
    /// A signature, and nonsense behind it.
    #[error("its PROXY protocol header is malformed")]
    Malformed,
}

/// Reads the header at the front of `input`; `None` while it is not whole.
///
/// # Errors
/// [`ProxyError`]; more bytes would not help.
pub fn header(input: &[u8]) -> Result<Option<Header>, ProxyError> {
    match input.first() {
        None => Ok(None),
        Some(b'P') => version_1(input),
        Some(_) => version_2(input),
    }
}

fn client(ip: impl Into<IpAddr>, port: u16) -> Origin {
    Origin::Client(canonical(SocketAddr::new(ip.into(), port)))
}

fn begins(input: &[u8], signature: &[u8]) -> bool {
    let both = input.len().min(signature.len());
    input[..both] == signature[..both]
}

fn version_1(input: &[u8]) -> Result<Option<Header>, ProxyError> {
    if !begins(input, b"PROXY ") {
        return Err(ProxyError::NoHeader);
    }
    // `ppp` takes a line that ends behind a space for a wrong one: it is asked once the line is whole.
    let Some(end) = input.iter().take(MAX_V1).position(|byte| *byte == b'\n') else {
        return if input.len() < MAX_V1 { Ok(None) } else { Err(ProxyError::TooLong(MAX_V1)) };
    };
    let found = v1::Header::try_from(&input[..=end]).map_err(|_| ProxyError::Malformed)?;
    if found.header.len() != end + 1 {
        return Err(ProxyError::Malformed);
    }
    let origin = match found.addresses {
        v1::Addresses::Tcp4(ip) => client(ip.source_address, ip.source_port),
        v1::Addresses::Tcp6(ip) => client(ip.source_address, ip.source_port),
        v1::Addresses::Unknown => Origin::Unknown,
    };
    Ok(Some(Header { origin, len: end + 1 }))
}

fn version_2(input: &[u8]) -> Result<Option<Header>, ProxyError> {
    if !begins(input, v2::PROTOCOL_PREFIX) {
        return Err(ProxyError::NoHeader);
    }
    if let Some(length) = input.get(V2_HEAD - 2..V2_HEAD)
        && V2_HEAD + usize::from(u16::from_be_bytes([length[0], length[1]])) > MAX_V2
    {
        return Err(ProxyError::TooLong(MAX_V2));
    }
    // LOCAL: the rest is passed over, whatever family it names (2.2); `ppp` wants its addresses.
    if let Some(head) = input.first_chunk::<V2_HEAD>()
        && head[12] == (v2::Version::Two | v2::Command::Local)
    {
        let len = V2_HEAD + usize::from(u16::from_be_bytes([head[14], head[15]]));
        return Ok((input.len() >= len).then_some(Header { origin: Origin::Local, len }));
    }
    let found = match v2::Header::try_from(input) {
        Ok(found) => found,
        Err(v2::ParseError::Incomplete(..) | v2::ParseError::Partial(..)) => return Ok(None),
        Err(_) => return Err(ProxyError::Malformed),
    };
    // LOCAL does not come so far.
    let origin = match (found.protocol, found.addresses) {
        (v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => {
            client(ip.source_address, ip.source_port)
        }
        (v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => {
            client(ip.source_address, ip.source_port)
        }
        _ => Origin::Unknown,
    };
    Ok(Some(Header { origin, len: found.header.len() }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut out = v2::PROTOCOL_PREFIX.to_vec();
        out.extend([command, family]);
        out.extend((body.len() as u16).to_be_bytes());
        out.extend(body);
        out
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xc3, 0x50, 7, 0x5b];

    fn v6() -> Vec<u8> {
        let mut body = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
        body.extend([0; 16]);
        body.extend([0xc3, 0x50, 7, 0x5b]);
        body
    }

    /// Each with whose connection it is.
    fn good() -> Vec<(Vec<u8>, Origin)> {
        let client = |text: &str| Origin::Client(text.parse().unwrap());
        let long = "PROXY TCP6 ffff:f:f:f:f:f:f:ff ffff:f:f:f:f:f:f:ff 65535 65535\r\n";
        let tlvs = [&V4[..], &[3, 0, 4, 1, 2, 3, 4], &[0x20, 0, 3, 1, 2, 3]].concat();
        vec![
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 1883\r\n".to_vec(),
                client("192.0.2.1:50000"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 2001:db8::2 50000 1883\r\n".to_vec(),
                client("[2001:db8::1]:50000"),
            ),
            (long.into(), client("[ffff:f:f:f:f:f:f:ff]:65535")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Origin::Unknown),
            (b"PROXY UNKNOWN ffff:f:f:f ffff 65535 65535\r\n".to_vec(), Origin::Unknown),
            (v2(0x21, 0x11, &V4), client("192.0.2.1:50000")),
            (v2(0x21, 0x11, &tlvs), client("192.0.2.1:50000")),
            (v2(0x21, 0x21, &v6()), client("[2001:db8::1]:50000")),
            (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 50000 1883\r\n".to_vec(), client("192.0.2.1:50000")),
            (v2(0x20, 0x00, &[]), Origin::Local),
            (v2(0x20, 0x11, &V4), Origin::Local),
            (v2(0x20, 0x11, &[]), Origin::Local),
            (v2(0x20, 0x55, &[7; 9]), Origin::Local),
            (v2(0x21, 0x00, &[]), Origin::Unknown),
            (v2(0x21, 0x12, &V4), Origin::Unknown),
            (v2(0x21, 0x31, &[0; 216]), Origin::Unknown),
        ]
    }

    #[test]
    fn each_form_says_whose_it_is_and_waits_until_it_is_whole() {
        for (bytes, origin) in good() {
            for cut in 0..bytes.len() {
                assert_eq!(header(&bytes[..cut]), Ok(None), "{cut} of {bytes:?}");
            }
            let whole = Ok(Some(Header { origin, len: bytes.len() }));
            assert_eq!(header(&bytes), whole, "{bytes:?}");
            let behind = [&bytes[..], b"\x10\x0c\0\x04MQTT"].concat();
            assert_eq!(header(&behind), whole, "with CONNECT behind it: {bytes:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
        for bytes in
            [&b"\x10\x0c\0\x04MQTT"[..], b"GET / HTTP/1.1\r\n", b"PROXYTCP4 ", b"\r\n\r\nQ"]
        {
            assert_eq!(header(bytes), Err(ProxyError::NoHeader), "{bytes:?}");
        }
        for bytes in [
            b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 188x\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 50000\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 ::1 50000 1883\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 198.51.100.2 50000 1883\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 1883\n".to_vec(),
            b"PROXY TCP4\r192.0.2.1\r\n".to_vec(),
            v2(0x31, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x21, &V4),
        ] {
            assert_eq!(header(&bytes), Err(ProxyError::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_is_bounded() {
        let long = |len| [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; len]].concat();
        assert_eq!(header(&long(MAX_V1 - 15)), Ok(None));
        assert_eq!(header(&long(MAX_V1 - 14)), Err(ProxyError::TooLong(MAX_V1)));
        assert!(header(&v2(0x21, 0x11, &vec![0; MAX_V2 - 16])).unwrap().is_some());
        // By the length it says, before it has come.
        let too_long = v2(0x21, 0x11, &vec![0; MAX_V2 - 15]);
        assert_eq!(header(&too_long[..16]), Err(ProxyError::TooLong(MAX_V2)));
    }

    proptest! {
        /// No bytes make it panic, and none behind a whole header or a refusal change it.
        #[test]
        fn more_bytes_change_nothing(
            pick in 0..17_usize,
            flip in any::<(prop::sample::Index, u8)>(),
            more in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = good().get(pick).map_or_else(Vec::new, |(bytes, _)| bytes.clone());
            if !bytes.is_empty() {
                let at = flip.0.index(bytes.len());
                bytes[at] ^= flip.1;
            }
            let before = header(&bytes);
            bytes.extend(more);
            let after = header(&bytes);
            if before != Ok(None) {
                prop_assert_eq!(before, after);
            }
        }
    }
}
