//! One name with three addresses, a node behind each: which of them clients try, first and when they
//! come back. What docs/clients-in.md says of clients and DNS is seen here.
//!
//! The name stands in a hosts file that only the client sees: it is bound over /etc/hosts in a mount
//! namespace of the client's own (`unshare`, which needs no root), and getaddrinfo reads it as it
//! reads an answer with several A records.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::process::{guard, release};
use crate::support::server::free_port;
use crate::support::{Node, SOON, eventually};
use crate::{installed, script};

const NAME: &str = "broker.test";

/// Nodes on one port of 127.0.0.2 to 127.0.0.4.
struct Nodes {
    nodes: Vec<Node>,
    port: u16,
    hosts: tempfile::NamedTempFile,
}

impl Nodes {
    fn start() -> Self {
        let port = free_port();
        let node = |n| Node::builder().id(&format!("n{n}")).listen(&format!("127.0.0.{n}:{port}"));
        let nodes = (2..=4).map(|n| node(n).start()).collect();
        let nodes = Self { nodes, port, hosts: tempfile::NamedTempFile::new().unwrap() };
        nodes.name(|_| true);
        nodes
    }

    /// Gives the name the addresses of these nodes. The file stays the one that clients have mounted.
    fn name(&self, has: impl Fn(usize) -> bool) {
        let line = |n: usize| format!("127.0.0.{} {NAME}\n", n + 2);
        let lines: String = (0..3).filter(|n| has(*n)).map(line).collect();
        std::fs::write(self.hosts.path(), lines).unwrap();
    }

    /// Starts the client; `args` go behind host and port where `{host}` and `{port}` stand.
    fn client(&self, program: &Path, args: &[&str]) -> Client {
        let folder = tempfile::tempdir().unwrap();
        let bind = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
        let port = self.port.to_string();
        let args = args.iter().map(|arg| match *arg {
            "{host}" => NAME,
            "{port}" => &port,
            other => other,
        });
        let child = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", bind, "sh"])
            .arg(self.hosts.path())
            .arg(program)
            .args(args)
            .env("HYDRANT_NODE_MODULES", installed("js/node_modules"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare (util-linux) starts");
        let guard = Some(guard(child.id(), folder.path()));
        Client { child, guard, _folder: folder }
    }

    fn mosquitto(&self) -> Client {
        let args = ["-h", "{host}", "-p", "{port}", "-i", "stays", "-t", "t"];
        self.client(&installed("bin/mosquitto_sub"), &args)
    }

    fn paho(&self) -> Client {
        let script = script("paho_client.py");
        let args = [script.to_str().unwrap(), "stays", "{port}", "{host}"];
        self.client(&installed("venv/bin/python"), &args)
    }

    fn mqttjs(&self) -> Client {
        let script = script("mqttjs_client.mjs");
        let args = [script.to_str().unwrap(), "stays", "{port}", "{host}"];
        self.client(Path::new("node"), &args)
    }

    /// Waits until exactly one node has the client; which.
    #[track_caller]
    fn holder(&mut self) -> usize {
        let mut holder = 0;
        eventually(2 * SOON, "one node has the client", || {
            let has = |node: &Node| node.metric("hydrant_connections") >= 1.0;
            let alive: Vec<_> = (0..3).filter(|n| self.nodes[*n].is_running()).collect();
            let holders: Vec<_> = alive.into_iter().filter(|n| has(&self.nodes[*n])).collect();
            holder = holders.first().copied().unwrap_or(0);
            holders.len() == 1
        });
        holder
    }

    /// Kills the nodes below the client, one after the other: it comes back to the next.
    #[track_caller]
    fn clients_come_back_to_the_others(mut self, client: impl Fn(&Self) -> Client) {
        let running = client(&self);
        let first = self.holder();
        self.nodes[first].kill9();
        let second = self.holder();
        assert_ne!(first, second);
        self.nodes[second].kill9();
        let third = self.holder();
        assert!(third != first && third != second);
        // Nor is it lost on one that comes new, whichever address it tries first.
        drop(running);
        let node = &self.nodes[third];
        eventually(SOON, "it has gone", || node.metric("hydrant_connections") == 0.0);
        let _running = client(&self);
        assert_eq!(self.holder(), third);
    }

    /// Drains the node that has the client; CONNACK 0x03 is what meets the client there.
    #[track_caller]
    fn drain(&mut self) -> usize {
        let at = self.holder();
        let output = self.nodes[at].cli(&["drain"]);
        assert!(output.status.success(), "{output:?}");
        self.nodes[at].wait_closed("drain", 1.0);
        at
    }
}

/// A client that stays until it is dropped, also when the test process dies.
struct Client {
    child: Child,
    guard: Option<Child>,
    _folder: tempfile::TempDir,
}

impl Client {
    /// Waits for its end, by itself.
    #[track_caller]
    fn ends(&mut self) {
        eventually(SOON, "the client ends", || matches!(self.child.try_wait(), Ok(Some(_))));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(guard) = self.guard.take() {
            release(guard);
        }
    }
}

#[test]
fn mosquitto_tries_one_address_after_the_other() {
    Nodes::start().clients_come_back_to_the_others(Nodes::mosquitto);
}

#[test]
fn paho_tries_one_address_after_the_other() {
    Nodes::start().clients_come_back_to_the_others(Nodes::paho);
}

#[test]
fn mqttjs_tries_one_address_after_the_other() {
    Nodes::start().clients_come_back_to_the_others(Nodes::mqttjs);
}

/// Who runs it has to start it again.
#[test]
fn a_refused_connect_ends_mosquitto_sub() {
    let mut nodes = Nodes::start();
    let mut client = nodes.mosquitto();
    nodes.drain();
    client.ends();
}

#[test]
fn paho_and_mqttjs_ask_a_drained_node_again_until_the_name_is_without_it() {
    for client in [Nodes::paho, Nodes::mqttjs] {
        let mut nodes = Nodes::start();
        let _client = client(&nodes);
        let drained = nodes.drain();
        nodes.nodes[drained].wait_closed("connect_refused", 2.0);
        let connects = |n: usize| nodes.nodes[n].metric("hydrant_connects_total");
        let elsewhere = || (0..3).filter(|n| *n != drained).map(connects).sum::<f64>();
        assert_eq!(elsewhere(), 0.0);
        // Each try looks the name up anew.
        nodes.name(|n| n != drained);
        eventually(2 * SOON, "it is elsewhere", || elsewhere() == 1.0);
        assert_eq!(connects(drained), 1.0);
    }
}
