//! One MQTT connection: a blocking handshake, then a non-blocking socket with an outgoing buffer.
//!
//! Bytes are held per connection only for an incomplete packet and for what the socket did not
//! take yet; reading goes through one large buffer shared by all.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::error::Error;
use crate::options::Target;
use crate::wire::{self, Frame};

/// Bytes read by one call.
pub const READ_BUFFER: usize = 256 * 1024;
/// Outgoing bytes past which a closed-loop publisher waits for the socket.
pub const OUT_HIGH: usize = 64 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Client {
    id: String,
    stream: TcpStream,
    /// Packets not written yet; `written` bytes of it are gone.
    pub out: Vec<u8>,
    written: usize,
    /// The front of a packet whose rest has not come.
    partial: Vec<u8>,
}

impl Client {
    /// Connects, and subscribes to `filter` when there is one; returns after CONNACK and SUBACK.
    pub fn open(target: &Target, name: &str, filter: Option<(&str, u8)>) -> Result<Client, Error> {
        let id = format!("{}-{name}", target.client_prefix);
        let elsewhere = filter.and(target.subscribe_address);
        let address: SocketAddr = elsewhere.unwrap_or(target.address);
        let connect = |source| Error::Connect { address, source };
        let mut stream = std::net::TcpStream::connect(address).map_err(connect)?;
        let wait = Duration::from_secs(target.deadline.max(1));
        stream.set_read_timeout(Some(wait)).map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        exchange(
            &mut stream,
            &id,
            &wire::connect(&id, target.clean, wire::KEEP_ALIVE),
            wire::CONNACK,
        )?;
        if let Some((filter, qos)) = filter {
            exchange(&mut stream, &id, &wire::subscribe(filter, qos), wire::SUBACK)?;
        }
        stream.set_nonblocking(true).map_err(connect)?;
        Ok(Client {
            id,
            stream: TcpStream::from_std(stream),
            out: Vec::new(),
            written: 0,
            partial: Vec::new(),
        })
    }

    /// Puts the socket into the epoll.
    pub fn register(&mut self, registry: &Registry, token: Token) -> Result<(), Error> {
        registry
            .register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
            .map_err(Error::system("cannot watch a socket"))
    }

    /// Bytes that wait for the socket.
    pub fn backlog(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) -> Result<(), Error> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(self.lost("the socket takes nothing")),
                Ok(n) => self.written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.lost(&e.to_string())),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads until the socket is empty and gives every whole packet to `each`, with the outgoing
    /// buffer for its answer.
    pub fn read(
        &mut self,
        shared: &mut [u8],
        mut each: impl FnMut(Frame<'_>, &mut Vec<u8>) -> Result<(), String>,
    ) -> Result<(), Error> {
        loop {
            let kept = self.partial.len();
            if kept >= shared.len() {
                return Err(self.protocol("a packet larger than the read buffer".into()));
            }
            shared[..kept].copy_from_slice(&self.partial);
            let got = match self.stream.read(&mut shared[kept..]) {
                Ok(0) => return Err(self.lost("the broker closed it")),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.lost(&e.to_string())),
            };
            let end = kept + got;
            let mut at = 0;
            while at < end {
                match wire::cut(&shared[at..end]) {
                    Ok(Some((frame, length))) => {
                        if let Err(what) = each(frame, &mut self.out) {
                            return Err(self.protocol(what));
                        }
                        at += length;
                    }
                    Ok(None) => break,
                    Err(what) => return Err(self.protocol(what.into())),
                }
            }
            self.partial.clear();
            self.partial.extend_from_slice(&shared[at..end]);
            // A short read from a stream socket has emptied it; the next bytes are a new edge.
            if end < shared.len() {
                return Ok(());
            }
        }
    }

    /// Says DISCONNECT; what the socket does not take at once is dropped.
    pub fn close(mut self) {
        self.out.extend_from_slice(&wire::DISCONNECT);
        let _gone_is_fine = self.flush();
    }

    fn lost(&self, what: &str) -> Error {
        Error::Lost { client: self.id.clone(), what: what.into() }
    }

    fn protocol(&self, what: String) -> Error {
        Error::Protocol { client: self.id.clone(), what }
    }
}

/// Sends a packet and waits for its answer, `want`, in which the last byte must be a success.
fn exchange(
    stream: &mut std::net::TcpStream,
    id: &str,
    send: &[u8],
    want: u8,
) -> Result<(), Error> {
    let lost = |e: io::Error| Error::Lost { client: id.into(), what: e.to_string() };
    stream.write_all(send).map_err(lost)?;
    let mut got = Vec::new();
    let mut chunk = [0u8; 1];
    loop {
        // Byte by byte: what follows the answer belongs to the run.
        stream.read_exact(&mut chunk).map_err(lost)?;
        got.push(chunk[0]);
        match wire::cut(&got) {
            Ok(None) => {}
            Ok(Some((frame, _))) => return success(id, frame, want),
            Err(what) => {
                return Err(Error::Protocol { client: id.into(), what: what.into() });
            }
        }
    }
}

/// Checks a CONNACK or SUBACK.
pub fn success(id: &str, frame: Frame<'_>, want: u8) -> Result<(), Error> {
    let code = frame.body.get(1..).and_then(<[u8]>::last).copied();
    match code {
        Some(code) if frame.first == want && code <= 2 && (want == wire::SUBACK || code == 0) => {
            Ok(())
        }
        _ => Err(Error::Refused {
            client: id.into(),
            what: format!("packet {:#04x} with {:?}", frame.first, frame.body),
        }),
    }
}
