// The client MQTT.js against a running node: mqttjs_client.mjs SCENARIO PORT [HOST]. Exits 0 when all is well.
// HYDRANT_NODE_MODULES names the folder that scripts/setup-clients has filled.
//
// tests/clients.rs starts the node, runs the scenarios and restarts the node between two of them.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(process.env.HYDRANT_NODE_MODULES + "/");
const mqtt = require("mqtt");
const [scenario, port, host] = process.argv.slice(2);
const SOON = 30_000;

// Fails the promise of what does not come.
const soon = (what, promise) =>
  Promise.race([
    promise,
    new Promise((_, fail) => setTimeout(() => fail(new Error(`no ${what}`)), SOON).unref()),
  ]);

class Client {
  static async open(clientId, options = {}) {
    const self = new Client();
    self.messages = [];
    self.waiting = [];
    self.client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
      clientId,
      protocolVersion: 4,
      reconnectPeriod: 0,
      ...options,
    });
    // Before CONNACK: messages of a persistent session follow it at once.
    self.client.on("message", (topic, payload, packet) => {
      const message = { topic, text: payload.toString(), qos: packet.qos, retain: packet.retain };
      const waiting = self.waiting.shift();
      waiting ? waiting(message) : self.messages.push(message);
    });
    self.connack = await soon(
      "CONNACK",
      new Promise((done, fail) => {
        self.client.once("connect", done);
        self.client.once("error", fail);
      }),
    );
    return self;
  }

  async subscribe(topic, qos) {
    const granted = await soon("SUBACK", this.client.subscribeAsync(topic, { qos }));
    assert.deepEqual(granted.map((grant) => grant.qos), [qos]);
  }

  publish(topic, text, qos, retain = false) {
    return soon("acknowledgement", this.client.publishAsync(topic, text, { qos, retain }));
  }

  take() {
    if (this.messages.length) return Promise.resolve(this.messages.shift());
    return soon("message", new Promise((done) => this.waiting.push(done)));
  }

  close() {
    return this.client.endAsync();
  }
}

const scenarios = {
  async publish_and_subscribe() {
    const [subscriber, publisher] = [await Client.open("js-s"), await Client.open("js-p")];
    for (const qos of [0, 1, 2]) {
      await subscriber.subscribe(`js/${qos}/+`, qos);
      await publisher.publish(`js/${qos}/x`, `payload ${qos}`, qos);
      assert.deepEqual(await subscriber.take(), {
        topic: `js/${qos}/x`,
        text: `payload ${qos}`,
        qos,
        retain: false,
      });
    }
  },

  async retained() {
    const publisher = await Client.open("js-p");
    await publisher.publish("js/retained", "kept", 1, true);
    const subscriber = await Client.open("js-s");
    await subscriber.subscribe("js/retained", 1);
    const message = await subscriber.take();
    assert.deepEqual([message.text, message.retain], ["kept", true]);
    await publisher.publish("js/retained", "", 1, true);
  },

  async will() {
    const watcher = await Client.open("js-w");
    await watcher.subscribe("js/will", 1);
    const will = (payload) => ({ will: { topic: "js/will", payload, qos: 1, retain: false } });
    const dying = await Client.open("js-d", will("gone"));
    dying.client.stream.destroy();
    assert.equal((await watcher.take()).text, "gone");
    await (await Client.open("js-l", will("never"))).close();
    await (await Client.open("js-p")).publish("js/will", "fence", 1);
    assert.equal((await watcher.take()).text, "fence");
  },

  async persistent_before() {
    const subscriber = await Client.open("js-persistent", { clean: false });
    assert.equal(subscriber.connack.sessionPresent, false);
    await subscriber.subscribe("js/persistent", 2);
    await subscriber.close();
    const publisher = await Client.open("js-p");
    for (let n = 0; n < 10; n++) await publisher.publish("js/persistent", `${n}`, 1 + (n % 2));
  },

  async persistent_after() {
    const subscriber = await Client.open("js-persistent", { clean: false });
    assert.equal(subscriber.connack.sessionPresent, true);
    const got = [];
    for (let n = 0; n < 10; n++) got.push(Number((await subscriber.take()).text));
    assert.deepEqual(got.sort(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  },

  async qos_2() {
    const [subscriber, publisher] = [await Client.open("js-s"), await Client.open("js-p")];
    await subscriber.subscribe("js/qos2", 2);
    const published = Array.from({ length: 1000 }, (_, n) => publisher.publish("js/qos2", `${n}`, 2));
    for (let n = 0; n < 1000; n++) assert.equal((await subscriber.take()).text, `${n}`);
    await Promise.all(published);
    await publisher.publish("js/qos2", "fence", 2);
    assert.equal((await subscriber.take()).text, "fence", "a message came twice");
  },

  // Connects by a name and comes back as the client does by itself.
  stays() {
    const client = mqtt.connect(`mqtt://${host}:${port}`, { clientId: "stays", protocolVersion: 4 });
    client.on("error", (error) => console.log(`${error}`));
    return new Promise((done) => client.on("end", done));
  },
};

await scenarios[scenario]();
process.exit(0);
