//! A real HAProxy with the very docs/haproxy.cfg: its addresses are replaced, nothing else but what a
//! test asks for. `scripts/setup-haproxy` installs it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::Node;
use super::server::{Server, free_port, work};

/// What users are given.
const CONFIG: &str = include_str!("../../docs/haproxy.cfg");

/// One HAProxy in front of nodes.
pub struct HaProxy {
    server: Server,
    /// Where clients connect.
    pub mqtt: SocketAddr,
}

impl HaProxy {
    /// In front of these three nodes, which have `admin.agent_listen`; ready when it takes clients.
    #[track_caller]
    pub fn start(nodes: &[Node]) -> Self {
        Self::start_with(nodes, |config| config)
    }

    /// The same with a change of the file.
    #[track_caller]
    pub fn start_with(nodes: &[Node], change: impl FnOnce(String) -> String) -> Self {
        let program = work().join("haproxy/bin/haproxy");
        let shown = program.display();
        assert!(
            program.is_file(),
            "{shown} is not there: run scripts/setup-haproxy (or scripts/test)"
        );
        let server = Server::new("haproxy");
        let port = free_port();
        let mut config = CONFIG.to_owned();
        replace(&mut config, "bind 0.0.0.0:1883", &format!("bind 127.0.0.1:{port}"));
        let socket = server.folder().join("admin.sock");
        replace(
            &mut config,
            "stats socket /run/haproxy/admin.sock",
            &format!("stats socket {}", socket.display()),
        );
        // As much as a test machine lets a process have open; and no port shared with another's.
        replace(&mut config, "    maxconn 100000\n", "    maxconn 1000\n    noreuseport\n");
        for (n, node) in (1..).zip(nodes) {
            let (mqtt, http, agent) = (node.mqtt, node.admin.port(), node.agent().port());
            let shipped = format!("server n{n} 10.0.0.{n}:1883 port 9883 agent-port 9884");
            replace(
                &mut config,
                &shipped,
                &format!("server n{n} {mqtt} port {http} agent-port {agent}"),
            );
        }
        std::fs::write(server.folder().join("haproxy.cfg"), change(config)).expect("haproxy.cfg");
        let mut haproxy = Self { server, mqtt: ([127, 0, 0, 1], port).into() };
        let file = haproxy.server.folder().join("haproxy.cfg");
        haproxy.server.run_program(&program, &["-db", "-f", &file.display().to_string()]);
        let (mqtt, socket) = (haproxy.mqtt, haproxy.socket());
        haproxy.server.await_ready("HAProxy takes clients", || {
            // It gets its name last.
            socket.exists() && TcpStream::connect(mqtt).is_ok()
        });
        haproxy
    }

    fn socket(&self) -> PathBuf {
        self.server.folder().join("admin.sock")
    }

    /// The answer to a command on the stats socket.
    pub fn ask(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("the stats socket");
        writeln!(stream, "{command}").expect("a command");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// One column of `show stat` for a node, by the names in its first line.
    #[track_caller]
    pub fn stat(&self, node: &str, column: &str) -> String {
        let table = self.ask("show stat");
        let mut lines = table.lines().map(|line| line.trim_start_matches("# ").split(','));
        let at = lines.next().and_then(|mut head| head.position(|name| name == column));
        let at = at.unwrap_or_else(|| panic!("no column {column}:\n{table}"));
        let row = lines.find(|row| row.clone().take(2).eq(["hydrant", node]));
        row.and_then(|mut row| row.nth(at))
            .unwrap_or_else(|| panic!("no {node}:\n{table}"))
            .to_owned()
    }
}

/// Replaces what has to stand there.
#[track_caller]
fn replace(config: &mut String, shipped: &str, here: &str) {
    assert!(config.matches(shipped).count() == 1, "'{shipped}' is not once in docs/haproxy.cfg");
    *config = config.replace(shipped, here);
}
