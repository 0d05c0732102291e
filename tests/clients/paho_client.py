"""The client paho-mqtt against a running node: paho_client.py SCENARIO PORT [HOST]. Exits 0 when all is well.

tests/clients.rs starts the node, runs the scenarios and restarts the node between two of them.
"""

import queue
import sys
import threading

import paho.mqtt.client as mqtt

SOON = 30
PORT = int(sys.argv[2])


class Client:
    """A connected client; messages come into a queue."""

    def __init__(self, name, clean=True, will=None):
        self.messages = queue.Queue()
        self.answers = queue.Queue()
        self.session_present = None
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=clean,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        self.client.max_queued_messages_set(0)
        self.client.max_inflight_messages_set(50)
        if will:
            self.client.will_set(*will)
        connected = threading.Event()

        def on_connect(client, userdata, flags, reason, properties):
            assert not reason.is_failure, reason
            self.session_present = flags.session_present
            connected.set()

        self.client.on_connect = on_connect
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.answers.put(codes)
        self.client.connect("127.0.0.1", PORT, keepalive=60)
        self.client.loop_start()
        assert connected.wait(SOON), "no CONNACK"

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, qos)
        codes = self.answers.get(timeout=SOON)
        assert [code.value for code in codes] == [qos], codes

    def publish(self, topic, payload, qos, retain=False):
        info = self.client.publish(topic, payload, qos, retain)
        info.wait_for_publish(SOON)
        assert info.is_published(), "no acknowledgement"

    def take(self):
        return self.messages.get(timeout=SOON)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def publish_and_subscribe():
    subscriber, publisher = Client("paho-s"), Client("paho-p")
    for qos in range(3):
        topic = f"paho/{qos}/x"
        subscriber.subscribe(f"paho/{qos}/+", qos)
        publisher.publish(topic, f"payload {qos}", qos)
        message = subscriber.take()
        got = (message.topic, message.payload.decode(), message.qos, message.retain)
        assert got == (topic, f"payload {qos}", qos, False), got


def retained():
    publisher = Client("paho-p")
    publisher.publish("paho/retained", "kept", 1, retain=True)
    subscriber = Client("paho-s")
    subscriber.subscribe("paho/retained", 1)
    message = subscriber.take()
    assert (message.payload, message.retain) == (b"kept", True), message.payload
    publisher.publish("paho/retained", "", 1, retain=True)


def will():
    watcher = Client("paho-w")
    watcher.subscribe("paho/will", 1)
    dying = Client("paho-d", will=("paho/will", "gone", 1, False))
    dying.client._sock_close()
    assert watcher.take().payload == b"gone"
    leaving = Client("paho-l", will=("paho/will", "never", 1, False))
    leaving.close()
    Client("paho-p").publish("paho/will", "fence", 1)
    assert watcher.take().payload == b"fence"


def persistent_before():
    subscriber = Client("paho-persistent", clean=False)
    assert not subscriber.session_present
    subscriber.subscribe("paho/persistent", 2)
    subscriber.close()
    publisher = Client("paho-p")
    for n in range(10):
        publisher.publish("paho/persistent", str(n), 1 + n % 2)


def persistent_after():
    subscriber = Client("paho-persistent", clean=False)
    assert subscriber.session_present
    got = sorted(int(subscriber.take().payload) for _ in range(10))
    assert got == list(range(10)), got


def qos_2():
    subscriber, publisher = Client("paho-s"), Client("paho-p")
    subscriber.subscribe("paho/qos2", 2)
    infos = [publisher.client.publish("paho/qos2", str(n), 2) for n in range(1000)]
    got = [int(subscriber.take().payload) for _ in range(1000)]
    for info in infos:
        info.wait_for_publish(SOON)
    assert got == list(range(1000)), got
    publisher.publish("paho/qos2", "fence", 2)
    assert subscriber.take().payload == b"fence", "a message came twice"


def stays():
    """Connects by a name and comes back as the client does by itself."""
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id="stays", protocol=mqtt.MQTTv311
    )
    client.connect(sys.argv[3], PORT)
    client.loop_forever()


globals()[sys.argv[1]]()
