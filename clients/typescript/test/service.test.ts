/** The client against a running service: P4R_URL and P4R_KEY (of the administrator) name it. */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { createP4RClient, type Schemas } from "../src/index.js";

const url = process.env["P4R_URL"];
const key = process.env["P4R_KEY"];
assert.ok(url !== undefined && key !== undefined, "set P4R_URL and P4R_KEY");
const client = createP4RClient(url, { key });
const candidates = ["ships", "cakes", "roses", "trains"];

function user(summary: string): Schemas["UserBody"] {
  return { history: [{ item_id: "read", timestamp: 1, summary }], candidates };
}

test("a ranking is explained", async () => {
  const { data, error } = await client.POST("/v1/rerank", {
    body: { users: [user("pruning old roses")], top: 2, filter: { shelf: { not: "s" } } },
  });
  assert.equal(error, undefined);
  const [ranking] = data.rankings;
  assert.equal(ranking?.degraded, false);
  assert.deepEqual(ranking.items.map((one) => one.rank), [1, 2]);
  assert.equal(ranking.items[0]?.item_id, "roses");
  assert.match(ranking.items[0].persona?.description ?? "", /roses/);
  assert.equal(ranking.items[0].because?.[0]?.item_id, "read");
});

test("an item that is not higher is explained", async () => {
  const { data } = await client.POST("/v1/why-not", {
    body: { user: user("pruning old roses"), item_id: "ships", top: 1 },
  });
  assert.equal(data?.threshold?.item_id, "roses");
  assert.ok(data.item.rank > 1);
});

test("a described person finds items", async () => {
  const { data } = await client.POST("/v1/search", { body: { text: "night trains", top: 1 } });
  assert.deepEqual(data?.items.map((one) => one.item_id), ["trains"]);
});

test("a user is stored, exported and erased, also one with a slash and an emoji", async () => {
  const params = { path: { user_id: "ada/⛵ ?#%2F" } };
  const stored = await client.POST("/v1/users/{user_id}/interactions", {
    params,
    body: { item_id: "ships", timestamp: 5, rating: 4, text: "I sailed." },
  });
  assert.equal(stored.response.status, 202);
  const found = await client.GET("/v1/users/{user_id}", { params });
  assert.deepEqual(found.data?.history.map((one) => one.item_id), ["ships"]);
  const exported = await client.GET("/v1/users/{user_id}/export", { params, parseAs: "text" });
  const lines = exported.data?.trimEnd().split("\n") ?? [];
  assert.deepEqual(lines.map((line) => JSON.parse(line).review_text), ["I sailed."]);
  const recommended = await client.GET("/v1/recommendations/{user_id}", {
    params: { ...params, query: { top: 2 } },
  });
  assert.equal(recommended.data?.items.length, 2);
  const erased = await client.DELETE("/v1/users/{user_id}", { params });
  assert.equal(erased.data?.erased, 1);
});

test("a refused request says why", async () => {
  const { data, error, response } = await client.POST("/v1/rerank", {
    // @ts-expect-error: the types refuse a misspelt field
    body: { users: [{ candidate: ["ships"] }] },
  });
  assert.equal(data, undefined);
  assert.equal(response.status, 422);
  assert.match(error.error.message, /candidate/);
  // @ts-expect-error: the types refuse a path that the service does not have
  await client.GET("/v1/nothing");
});

test("a wrong key is refused", async () => {
  const stranger = createP4RClient(url, { key: "wrong" });
  const { error } = await stranger.POST("/v1/search", { body: { text: "night trains" } });
  assert.ok(error);
  assert.match(error.error.message, /key/);
});

test("a service that hangs is given up", async () => {
  const silent = createServer(() => {}).listen(0, "127.0.0.1");
  try {
    await new Promise((listening) => silent.once("listening", listening));
    const { port } = silent.address() as AddressInfo;
    const hanging = createP4RClient(`http://127.0.0.1:${port}`, { timeoutMs: 50 });
    await assert.rejects(hanging.GET("/healthz"), { name: "TimeoutError" });
  } finally {
    silent.closeAllConnections();
    silent.close();
  }
});
