//! The tier "clients": a node as a new user tries it, with mosquitto_pub and mosquitto_sub, the
//! Python client paho-mqtt and MQTT.js, each from its own package, also by a name with several addresses. `scripts/setup-clients` fetches
//! them; no test skips: without them each fails.
//!
//! `cargo test --features servers --test clients`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(unused_imports)]
mod support;

#[path = "clients/dns.rs"]
mod dns;
#[path = "clients/mosquitto.rs"]
mod mosquitto;
#[path = "clients/mqttjs.rs"]
mod mqttjs;
#[path = "clients/paho.rs"]
mod paho;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// How long a client may run: a thousand QoS 2 messages on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A file that `scripts/setup-clients` puts below `.work/clients` (`HYDRANT_WORK` overrides `.work`).
fn installed(path: &str) -> PathBuf {
    let work = std::env::var_os("HYDRANT_WORK")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".work"), PathBuf::from);
    let file = work.join("clients").join(path);
    assert!(
        file.exists(),
        "{} is not there: run scripts/test (or scripts/setup-clients) first",
        file.display()
    );
    file
}

/// A script of this tier.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Waits for the end of a client, which has to succeed; what it printed.
#[track_caller]
fn finish(mut child: Child) -> String {
    let end = Instant::now() + PATIENCE;
    // Its output is read while it runs: a full pipe would stop it.
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child of this process") {
            break Some(status);
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
        String::from_utf8_lossy(&reader.map_or_else(Vec::new, |r| r.join().unwrap_or_default()))
            .into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Some(status) => assert!(status.success(), "{status}\n{stdout}\n{stderr}"),
        None => panic!("it did not end in {PATIENCE:?}\n{stdout}\n{stderr}"),
    }
    stdout
}

fn read_all(mut stream: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// Runs a client to its end.
#[track_caller]
fn run(command: &mut Command) -> String {
    use std::process::Stdio;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    finish(child.expect("the client starts"))
}

#[test]
fn the_versions_are_the_pinned_ones() {
    let version = |output: Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let paho = Command::new(installed("venv/bin/python"))
        .args(["-c", "import paho.mqtt; print(paho.mqtt.__version__)"])
        .output();
    let wanted = std::fs::read_to_string(script("requirements.txt")).unwrap();
    assert_eq!(format!("paho-mqtt=={}", version(paho.unwrap())), wanted);
    let package = std::fs::read_to_string(installed("js/node_modules/mqtt/package.json")).unwrap();
    let wanted = std::fs::read_to_string(script("package.json")).unwrap();
    let pinned = wanted.split("\"mqtt\": \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(package.contains(&format!("\"version\": \"{pinned}\"")), "MQTT.js is not {pinned}");
}
