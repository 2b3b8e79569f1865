// Verifies what webhooks.json of its folder has: a list of {headers, body, secret, good}, each by the OpenAI SDK and by
// the library of the Standard Webhooks. Whatever one of them says otherwise than `good` is a failure.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import OpenAI from "openai";
import { Webhook } from "standardwebhooks";

const client = new OpenAI({ apiKey: "none" });
const heard = JSON.parse(await readFile("webhooks.json", "utf8"));

test("webhooks", async () => {
  for (const { headers, body, secret, good } of heard) {
    const unwrapped = async () => client.webhooks.unwrap(body, headers, secret);
    const verified = async () => new Webhook(secret).verify(body, headers);
    for (const read of [unwrapped, verified]) {
      if (good) assert.deepEqual(await read(), JSON.parse(body));
      else await assert.rejects(read);
    }
  }
});
