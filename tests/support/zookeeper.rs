//! A real ZooKeeper (one server) in a temporary folder on a free port.
//!
//! The jars come from `scripts/setup-jars zookeeper`; the process is a [`Server`].

#![allow(dead_code)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use super::server::{KEYSTORE_PASSWORD, Server, free_port, make_certificate};

/// A ZooKeeper of this test's own. Sessions time out after one second or more.
pub struct Zookeeper {
    server: Server,
    port: u16,
    /// Of the port that speaks TLS.
    secure: Option<u16>,
}

impl Zookeeper {
    /// Installs nothing; makes a new folder, starts, waits until ready.
    pub fn start() -> Self {
        let mut zookeeper = Self::prepare();
        zookeeper.restart();
        zookeeper
    }

    /// The same without the start, for a ZooKeeper that is absent at first. `restart` starts it.
    pub fn prepare() -> Self {
        let (server, port) = (Server::new("zookeeper"), free_port());
        let text = format!(
            "tickTime=500\n\
             dataDir={}\n\
             clientPort={port}\n\
             clientPortAddress=127.0.0.1\n\
             maxClientCnxns=0\n\
             admin.enableServer=false\n\
             4lw.commands.whitelist=*\n",
            server.folder().join("data").display()
        );
        std::fs::write(server.folder().join("zoo.cfg"), text).expect("zoo.cfg");
        Self { server, port, secure: None }
    }

    /// One with a second port that speaks TLS, with a certificate for 127.0.0.1: see [`Self::ca`].
    pub fn start_tls() -> Self {
        let mut zookeeper = Self::prepare();
        let (secure, config) = (free_port(), zookeeper.server.folder().join("zoo.cfg"));
        let store = make_certificate(zookeeper.server.folder(), Ipv4Addr::LOCALHOST);
        let mut text = std::fs::read_to_string(&config).expect("zoo.cfg");
        text += &format!(
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             secureClientPort={secure}\n\
             secureClientPortAddress=127.0.0.1\n\
             ssl.clientAuth=none\n\
             ssl.keyStore.location={store}\n\
             ssl.keyStore.password={KEYSTORE_PASSWORD}\n"
        );
        std::fs::write(config, text).expect("zoo.cfg");
        zookeeper.secure = Some(secure);
        zookeeper.restart();
        zookeeper
    }

    /// `host:port` for clients over TLS.
    pub fn secure_address(&self) -> String {
        format!("127.0.0.1:{}", self.secure.expect("start_tls"))
    }

    /// With [`Self::start_tls`]: the file with the certificate, which is its own authority.
    pub fn ca(&self) -> PathBuf {
        self.server.folder().join("ca.pem")
    }

    /// `host:port` for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it (again): same data, same port. Waits until it serves.
    pub fn restart(&mut self) {
        let config = self.server.folder().join("zoo.cfg");
        let options = [
            "-Xmx128m",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
            // What a killed process wrote the system keeps; no machine crashes here.
            "-Dzookeeper.forceSync=no",
        ];
        let main = "org.apache.zookeeper.server.ZooKeeperServerMain";
        self.server.run(&options, None, &[main, &config.to_string_lossy()]);
        self.server.await_ready("ZooKeeper serves", || {
            self.command("srvr").is_some_and(|said| said.contains("Mode: standalone"))
        });
    }

    /// What it says to a command of four letters; `None` when nobody answers.
    pub fn command(&self, letters: &str) -> Option<String> {
        let (address, limit) =
            (SocketAddr::from(([127, 0, 0, 1], self.port)), Duration::from_secs(2));
        let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
        stream.set_read_timeout(Some(limit)).ok()?;
        stream.write_all(letters.as_bytes()).ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    }

    /// While it does not run: removes all it knows.
    pub fn forget(&self) {
        std::fs::remove_dir_all(self.server.folder().join("data")).expect("its data");
    }
}

/// It is ended, frozen and read as every [`Server`] is.
impl Deref for Zookeeper {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Zookeeper {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// A ZooKeeper that all tests of this binary may use, each under a chroot of its own, and none may
/// disturb.
pub fn shared() -> &'static Zookeeper {
    static SHARED: OnceLock<Zookeeper> = OnceLock::new();
    SHARED.get_or_init(|| {
        let mut zookeeper = Zookeeper::prepare();
        zookeeper.server.immortal();
        zookeeper.restart();
        zookeeper
    })
}
