//! What stands between the nodes: a port that is carried on to another, and can be shut or held.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// See the module.
#[derive(Clone)]
pub struct Gate {
    pub address: SocketAddr,
    shut: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
    /// Connections that came through.
    pub passed: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    pub fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Self {
            address,
            shut: Arc::default(),
            held: Arc::default(),
            passed: Arc::default(),
            open: Arc::default(),
        };
        let its = gate.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if its.shut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(other) = TcpStream::connect(target) else { continue };
                its.passed.fetch_add(1, Ordering::SeqCst);
                for (from, to) in [(&stream, &other), (&other, &stream)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let held = Arc::clone(&its.held);
                    std::thread::spawn(move || {
                        let mut chunk = [0; 65_536];
                        while let Ok(n @ 1..) = from.read(&mut chunk) {
                            while held.load(Ordering::SeqCst) {
                                std::thread::sleep(Duration::from_millis(2));
                            }
                            if to.write_all(&chunk[..n]).is_err() {
                                break;
                            }
                        }
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
                its.open.lock().push(stream);
            }
        });
        gate
    }

    /// Nobody comes through, and who was through is cut off.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Connections stay, and nothing comes through; or what was held comes.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    pub fn reopen(&self) {
        self.shut.store(false, Ordering::SeqCst);
    }
}
