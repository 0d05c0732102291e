//! A TCP forwarder in front of a program, by which a test breaks what one other program has of it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use procfs::process::{FDTarget, Process};

/// What it does with the connections of the one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Forwards.
    Open,
    /// Ends them, and each new one at once.
    Refused,
    /// Passes nothing on, as a network does that loses every packet; refuses new ones.
    Silent,
}

/// See the module. Its connections end when it is dropped.
pub struct Forwarder {
    shared: Arc<ForwarderState>,
    /// Where it listens.
    pub address: SocketAddr,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// What the process sends.
    Questions,
    /// What it is answered.
    Answers,
    /// Either one of somebody else's, which is never broken.
    Other,
}

struct ForwarderState {
    own: SocketAddr,
    to: SocketAddr,
    process: Option<u32>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    way: Way,
    stopped: bool,
    /// Connections of the process that are open and were answered; and those that ever were.
    answered: (u64, u64),
    /// Both ends of each of them.
    breakable: Vec<TcpStream>,
    /// Both ends of those of everybody else.
    others: Vec<TcpStream>,
}

impl Forwarder {
    /// On a free port, to this address. What comes from this process is what can be broken; all else
    /// is forwarded.
    pub fn start(process: u32, to: SocketAddr) -> Self {
        Self::with(Some(process), to)
    }

    /// The same, where all that comes can be broken.
    pub fn before(to: SocketAddr) -> Self {
        Self::with(None, to)
    }

    fn with(process: Option<u32>, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (way, stopped, answered) = (Way::Open, false, (0, 0));
        let state = State { way, stopped, answered, breakable: Vec::new(), others: Vec::new() };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(ForwarderState { own: address, to, process, state, changed });
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
            end(&mut state.breakable);
        }
        self.shared.changed.notify_all();
    }

    /// Ends the connections that the process has; new ones are taken.
    pub fn cut(&self) {
        end(&mut self.shared.lock().breakable);
    }

    /// Connections of the process that are open and were answered; and those that ever were.
    pub fn answered(&self) -> (u64, u64) {
        self.shared.lock().answered
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        end(&mut state.breakable);
        end(&mut state.others);
        drop(state);
        self.shared.changed.notify_all();
        // Ends its thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn end(sockets: &mut Vec<TcpStream>) {
    for socket in sockets.drain(..) {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

impl ForwarderState {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the other end of a connection is the process.
    fn is_breakable(&self, peer: SocketAddr) -> bool {
        let Some(process) = self.process else { return true };
        let table = procfs::net::tcp().expect("/proc/net/tcp");
        let socket =
            table.iter().find(|row| row.local_address == peer && row.remote_address == self.own);
        let files = i32::try_from(process).ok().and_then(|pid| Process::new(pid).ok()?.fd().ok());
        let (Some(socket), Some(mut files)) = (socket, files) else { return false };
        files.any(|file| file.is_ok_and(|file| file.target == FDTarget::Socket(socket.inode)))
    }

    fn connect(self: &Arc<Self>, from: TcpStream) {
        let Ok(peer) = from.peer_addr() else { return };
        let breakable = self.is_breakable(peer);
        // Under the lock: what is ended is all there is.
        let mut state = self.lock();
        if breakable && state.way != Way::Open {
            return;
        }
        let Ok(to) = TcpStream::connect(self.to) else { return };
        let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
        let sockets = if breakable { &mut state.breakable } else { &mut state.others };
        sockets.extend([copy(&from), copy(&to)]);
        drop(state);
        let [questions, answers] = if breakable {
            [Stream::Questions, Stream::Answers]
        } else {
            [Stream::Other, Stream::Other]
        };
        let back = (copy(&to), copy(&from), answers);
        for (reader, writer, stream) in [(from, to, questions), back] {
            let own = Arc::clone(self);
            std::thread::spawn(move || own.forward(&reader, &writer, stream));
        }
    }

    /// One direction of a connection, until it ends.
    fn forward(&self, mut reader: &TcpStream, mut writer: &TcpStream, stream: Stream) {
        let _ = writer.set_nodelay(true);
        let mut bytes = [0; 16 << 10];
        let mut answered = 0;
        while let Ok(n @ 1..) = reader.read(&mut bytes) {
            self.wait_while_silent(stream);
            if stream == Stream::Answers && answered == 0 {
                answered = 1;
                let mut state = self.lock();
                state.answered = (state.answered.0 + 1, state.answered.1 + 1);
            }
            if writer.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        self.lock().answered.0 -= answered;
        self.wait_while_silent(stream);
        let _ = reader.shutdown(Shutdown::Both);
        let _ = writer.shutdown(Shutdown::Both);
    }

    fn wait_while_silent(&self, stream: Stream) {
        let breakable = stream != Stream::Other;
        let silent = |state: &mut State| breakable && state.way == Way::Silent && !state.stopped;
        let state = self.changed.wait_while(self.lock(), silent);
        drop(state.unwrap_or_else(PoisonError::into_inner));
    }
}
