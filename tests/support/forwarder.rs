//! A TCP forwarder between two programs, by which a test breaks what they have of each other.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What it does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Forwards.
    Open,
    /// Ends them, and each new one at once.
    Refused,
    /// Takes them and passes nothing on, as a network does that loses every packet.
    Silent,
}

/// See the module. Its connections end when it is dropped.
pub struct Forwarder {
    shared: Arc<Shared>,
    /// Where it listens.
    pub address: SocketAddr,
}

struct Shared {
    to: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    way: Way,
    stopped: bool,
    /// Both ends of every connection there was.
    sockets: Vec<TcpStream>,
}

impl Forwarder {
    /// On a free port, to this address.
    pub fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let state = State { way: Way::Open, stopped: false, sockets: Vec::new() };
        let shared = Arc::new(Shared { to, state: Mutex::new(state), changed: Condvar::new() });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if own.lock().stopped {
                    return;
                }
                own.connect(stream);
            }
        });
        Self { shared, address }
    }

    /// From here on.
    pub fn set(&self, way: Way) {
        let mut state = self.shared.lock();
        state.way = way;
        if way == Way::Refused {
            state.end_all();
        }
        self.shared.changed.notify_all();
    }

    /// Ends the connections there are; new ones are taken.
    pub fn cut(&self) {
        self.shared.lock().end_all();
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        state.end_all();
        drop(state);
        self.shared.changed.notify_all();
        // Ends its thread.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn end_all(&mut self) {
        for socket in self.sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(self: &Arc<Self>, from: TcpStream) {
        // Under the lock: what is ended is all there is.
        let mut state = self.lock();
        if state.way == Way::Refused {
            return;
        }
        let Ok(to) = TcpStream::connect(self.to) else { return };
        let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
        state.sockets.extend([copy(&from), copy(&to)]);
        drop(state);
        for (mut reader, mut writer) in [(copy(&from), copy(&to)), (to, from)] {
            let own = Arc::clone(self);
            std::thread::spawn(move || {
                let _ = reader.set_nodelay(true);
                let mut bytes = [0; 16 << 10];
                while let Ok(n @ 1..) = reader.read(&mut bytes) {
                    own.wait_while_silent();
                    if writer.write_all(&bytes[..n]).is_err() {
                        break;
                    }
                }
                own.wait_while_silent();
                let _ = reader.shutdown(Shutdown::Both);
                let _ = writer.shutdown(Shutdown::Both);
            });
        }
    }

    fn wait_while_silent(&self) {
        let silent = |state: &mut State| state.way == Way::Silent && !state.stopped;
        let state = self.changed.wait_while(self.lock(), silent);
        drop(state.unwrap_or_else(PoisonError::into_inner));
    }
}
