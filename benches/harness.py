"""What the benchmarks beside this file share: programs of this repository and real servers, started
alone in folders of their own and ended by their id; the load generator; the tables' place in
docs/performance.md. Stdlib only."""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / ".work"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
LOADGEN = TARGET / "release/loadgen"
BROKER = TARGET / "release/broker"
DOC = ROOT / "docs/performance.md"
# What benches/scale calculates with: figures as the benchmarks that printed them left them.
MEASURED = ROOT / "benches/measured.json"


class Failure(Exception):
    """A cell that could not be measured; the others go on."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def cpu_seconds(pid):
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def hydrant(*settings, node_id="bench"):
    def command(port, folder):
        sets = [part for s in ("admin.enabled=false", *settings) for part in ("--set", s)]
        return [BROKER, "--node-id", node_id, "--listen", f"127.0.0.1:{port}",
                "--data-dir", folder / "data", *sets]
    return command


@contextlib.contextmanager
def started(name, command, folder=None):
    """A running broker: yields (address, pid). A folder that is given stays."""
    kept, folder = folder, folder or pathlib.Path(tempfile.mkdtemp(prefix=f"hydrant-bench-{name}-"))
    port = free_port()
    log = open(folder / "output.log", "wb")
    env = {**os.environ, "RUST_LOG": os.environ.get("RUST_LOG", "warn")}
    args = [str(a) for a in command(port, folder)]
    process = None
    try:
        process = subprocess.Popen(args, stdout=log, stderr=log, cwd=folder, env=env)
        wait_port(port, process, folder / "output.log", name)
        yield f"127.0.0.1:{port}", process.pid
    except FileNotFoundError as error:
        raise Failure(f"{error.filename} is missing; run without --no-build") from error
    finally:
        if process:
            stop(process)
        log.close()
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def wait_port(port, process, log, name, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise Failure(f"{name} does not answer on its port; its last words:\n{tail}")


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def loadgen(arguments, address, pid, deadline=120):
    command = [str(LOADGEN), *arguments, "--address", address, "--pid", str(pid),
               "--deadline", str(deadline)]
    return loadgen_output(command, deadline)


def loadgen_output(command, deadline):
    done = subprocess.run(command, capture_output=True, text=True, timeout=deadline + 60, check=False)
    if not done.stdout.strip():
        raise Failure(done.stderr.strip() or f"loadgen ended with {done.returncode}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def kafka():
    """A real one-node Kafka: yields (bootstrap, pid)."""
    subprocess.run([ROOT / "scripts/setup-jars", "kafka"], check=True)
    libs = f"{WORK}/kafka/libs/*"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hydrant-bench-kafka-"))
    port, controller = free_port(), free_port()
    (folder / "server.properties").write_text("\n".join([
        "process.roles=broker,controller", "node.id=1",
        f"controller.quorum.voters=1@127.0.0.1:{controller}",
        f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names=CONTROLLER",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        f"log.dirs={folder}/logs", "auto.create.topics.enable=false",
        "offsets.topic.replication.factor=1", "transaction.state.log.replication.factor=1",
        "transaction.state.log.min.isr=1", "group.initial.rebalance.delay.ms=0", ""]))
    log = open(folder / "output.log", "wb")
    java = ["java", "-Xmx1g", "-cp", libs]
    config = str(folder / "server.properties")
    process = None
    try:
        subprocess.run([*java, "kafka.tools.StorageTool", "format", "-t", "aHlkcmFudC1iZW5jaC0wMQ",
                        "-c", config], check=True, stdout=log, stderr=log, cwd=folder)
        process = subprocess.Popen([*java, "kafka.Kafka", config], stdout=log, stderr=log, cwd=folder)
        wait_port(port, process, folder / "output.log", "Kafka")
        yield f"127.0.0.1:{port}", process.pid
    except subprocess.CalledProcessError as error:
        raise Failure(f"Kafka could not be set up: {error}") from error
    finally:
        if process:
            stop(process)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def zookeeper():
    """A real one-node ZooKeeper: yields (address, pid)."""
    subprocess.run([ROOT / "scripts/setup-jars", "zookeeper"], check=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hydrant-bench-zookeeper-"))
    port = free_port()
    (folder / "zoo.cfg").write_text(
        f"tickTime=1000\ndataDir={folder}/data\nclientPort={port}\nclientPortAddress=127.0.0.1\n"
        "admin.enableServer=false\n")
    log = open(folder / "output.log", "wb")
    process = None
    try:
        process = subprocess.Popen(
            ["java", "-Xmx128m", "-cp", f"{WORK}/zookeeper/libs/*",
             "org.apache.zookeeper.server.ZooKeeperServerMain", str(folder / "zoo.cfg")],
            stdout=log, stderr=log, cwd=folder)
        wait_port(port, process, folder / "output.log", "ZooKeeper")
        yield f"127.0.0.1:{port}", process.pid
    finally:
        if process:
            stop(process)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def cassandra(sync):
    """A real one-node Cassandra: yields (contact point, pid). `sync`: lines of cassandra.yaml."""
    subprocess.run([ROOT / "scripts/setup-jars", "cassandra"], check=True)
    servers = ROOT / "scripts/servers/cassandra"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hydrant-bench-cassandra-"))
    port, storage = free_port(), free_port()
    conf = folder / "conf"
    for made in (conf, folder / "tmp"):
        made.mkdir()
    shutil.copy(servers / "logback.xml", conf)
    (conf / "cassandra.yaml").write_text("\n".join([
        "cluster_name: bench", "num_tokens: 1", "auto_bootstrap: false",
        "partitioner: org.apache.cassandra.dht.Murmur3Partitioner", "endpoint_snitch: SimpleSnitch",
        "seed_provider:", "- class_name: org.apache.cassandra.locator.SimpleSeedProvider",
        "  parameters:", f'  - seeds: "127.0.0.1:{storage}"', "listen_address: 127.0.0.1",
        f"storage_port: {storage}", f"ssl_storage_port: {free_port()}", "rpc_address: 127.0.0.1",
        f"native_transport_port: {port}", "auto_snapshot: false", *sync, ""]))
    log = open(folder / "output.log", "wb")
    java = ["java", f"@{servers / 'java.args'}", "-Xms2g", "-Xmx2g", f"-Djava.io.tmpdir={folder}/tmp",
            f"-Dcassandra.storagedir={folder}", f"-Dcassandra.config=file://{conf}/cassandra.yaml",
            "-cp", f"{conf}:{WORK}/cassandra/libs/*", "org.apache.cassandra.service.CassandraDaemon"]
    process = None
    try:
        process = subprocess.Popen(java, stdout=log, stderr=log, cwd=folder)
        wait_port(port, process, folder / "output.log", "Cassandra")
        yield f"127.0.0.1:{port}", process.pid
    finally:
        if process:
            stop(process)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def drop_keyspace(contact, name):
    """Takes a row's tables away: many runs on one Cassandra, whose memory thousands of tables fill."""
    host, port = contact.rsplit(":", 1)
    text = f'DROP KEYSPACE IF EXISTS "{name}"'.encode()
    # Consistency ONE, no flags.
    query = struct.pack(">i", len(text)) + text + b"\x00\x01\x00"
    startup = b"\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0"
    try:
        with socket.create_connection((host, int(port)), 60) as s, s.makefile("rb") as answers:
            for opcode, body, wanted in ((1, startup, 2), (7, query, 8)):
                s.sendall(struct.pack(">BBhBi", 4, 0, 0, opcode, len(body)) + body)
                _, _, _, answer, length = struct.unpack(">BBhBi", answers.read(9))
                said = answers.read(length)
                if answer != wanted:
                    raise Failure(f"Cassandra refuses to drop {name}: {said[6:].decode(errors='replace')}")
    except (OSError, struct.error) as error:
        raise Failure(f"Cassandra does not answer the drop of {name}: {error}") from error


@contextlib.contextmanager
def cluster(nodes, contact, keeper, name, *settings, own=lambda n: ()):
    """Yields (address, pid) of each of so many nodes, once all see each other; the keyspace and the
    cluster have this name. `own`: settings of the node of this number."""
    with contextlib.ExitStack() as stack:
        up = []
        for n in range(nodes):
            command = hydrant(
                'storage.kind="cassandra"', f'cassandra.contact_points="{contact}"',
                f'cassandra.keyspace="{name}"', 'cluster.kind="zookeeper"',
                'cluster.listen="127.0.0.1:0"', f'cluster.id="{name}"', f'zookeeper.servers="{keeper}"',
                f'zookeeper.chroot="/{name}"', *settings, *own(n), node_id=f"n{n + 1}")
            # It listens once it knows what the others want.
            up.append(stack.enter_context(started(f"n{n + 1}", command)))
        yield up


def human(value):
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value / 1e3:.0f} k" if value >= 10_000 else f"{value:,.0f}"


def machine():
    cpu = "unknown CPU"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return (f"{os.cpu_count()} cores ({cpu}), Linux {platform.release()}, "
            f"{datetime.date.today().isoformat()}")


def measured(section=None, figures=None):
    """What was measured so far; with `figures`, after those of `section` are replaced."""
    known = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    if section:
        known[section] = figures
        MEASURED.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    return known


def write_between(name, text, doc=DOC):
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = doc.read_text() if doc.exists() else f"# {doc.stem.capitalize()}\n"
    if begin not in old or end not in old:
        old = f"{old.rstrip()}\n\n{begin}\n{end}\n"
    head, rest = old.split(begin, 1)
    _, tail = rest.split(end, 1)
    doc.parent.mkdir(exist_ok=True)
    doc.write_text(f"{head}{begin}\n{text.strip()}\n{end}{tail}")
    print(f"written: {doc.relative_to(ROOT)} ({name})")


def build(arguments):
    command = ["cargo", "build", "--release", "--locked", *arguments]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(f"`{' '.join(command)}` failed; see above")
