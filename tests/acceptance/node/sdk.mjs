// The unmodified OpenAI SDK for Node against a gateway: BASE_URL, API_KEY, and LIMITED_KEY, which may make one task a
// day. Works on picture.png and mask.png of its folder, and leaves there what it was given, for others to open.
import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import OpenAI, { toFile } from "openai";

const baseURL = process.env.BASE_URL;
const client = new OpenAI({ baseURL, apiKey: process.env.API_KEY });
const model = "demo-image";
const size = "256x256";
const film = { model: "demo-video", prompt: "a lighthouse at dawn", seconds: "1", size: "256x144" };

const png = async (name) => toFile(await readFile(name), name, { type: "image/png" });
const keep = (name, base64) => writeFile(name, Buffer.from(base64, "base64"));

async function made(video) {
  for (; !["completed", "failed"].includes(video.status); video = await client.videos.retrieve(video.id)) {
    assert.ok(["queued", "in_progress"].includes(video.status), video.status);
    await setTimeout(50);
  }
  assert.deepEqual([video.status, video.progress, video.error], ["completed", 100, null]);
  return video;
}

test("models", async () => {
  const models = [];
  for await (const one of client.models.list()) models.push(one.id);
  assert.ok(models.includes(model) && models.includes(film.model));
});

test("images.generate", async () => {
  const linked = await client.images.generate({ model, prompt: "boats", size, n: 2 });
  assert.equal(linked.data.length, 2);
  assert.equal(linked.data[0].b64_json, undefined);
  const opened = await fetch(linked.data[0].url);
  assert.deepEqual([opened.status, opened.headers.get("content-type")], [200, "image/png"]);
  await writeFile("linked.png", Buffer.from(await opened.arrayBuffer()));
  const { data, response } = await client.images
    .generate({ model, prompt: "boats", size, response_format: "b64_json", output_format: "webp" })
    .withResponse();
  assert.match(response.headers.get("x-heliograph-task-id"), /^task_/);
  assert.equal(data.output_format, "webp");
  assert.equal(data.data[0].url, undefined);
  await keep("generate.webp", data.data[0].b64_json);
});

test("images.edit with a mask", async () => {
  const asked = { model, prompt: "a hill", image: await png("picture.png"), mask: await png("mask.png") };
  const edited = await client.images.edit({ ...asked, response_format: "b64_json" });
  await keep("edit.png", edited.data[0].b64_json);
});

test("images.edit with several pictures", async () => {
  const image = [await png("picture.png"), createReadStream("mask.png")];
  const edited = await client.images.edit({ model, prompt: "both", image, n: 2, response_format: "b64_json" });
  assert.equal(edited.data.length, 2);
  await keep("both.png", edited.data[0].b64_json);
});

test("images.createVariation", async () => {
  const image = await png("picture.png");
  const varied = await client.images.createVariation({ image, n: 2, response_format: "b64_json" });
  assert.equal(varied.data.length, 2);
  await keep("variation.png", varied.data[0].b64_json);
});

test("streams with partial pictures", async () => {
  const asked = { model, prompt: "a hill", stream: true, partial_images: 2 };
  for (const [kind, stream] of [
    ["image_generation", await client.images.generate({ ...asked, size })],
    ["image_edit", await client.images.edit({ ...asked, image: await png("picture.png") })],
  ]) {
    const heard = [];
    for await (const event of stream) heard.push(event);
    assert.deepEqual(
      heard.map((event) => event.type),
      [`${kind}.partial_image`, `${kind}.partial_image`, `${kind}.completed`],
    );
    assert.deepEqual([heard[0].partial_image_index, heard[1].partial_image_index], [0, 1]);
    assert.equal(new Set(heard.map((event) => event.b64_json)).size, 3);
    await keep(`${kind}.png`, heard[2].b64_json);
  }
});

test("videos", async () => {
  const begun = await client.videos.create(film);
  assert.deepEqual([begun.object, begun.model, begun.seconds, begun.size], ["video", "demo-video", "1", "256x144"]);
  const video = await made(begun);
  assert.deepEqual(await client.videos.retrieve(video.id), video);
  for (const [variant, type, name] of [
    [undefined, "video/mp4", "film.mp4"],
    ["video", "video/mp4", "again.mp4"],
    ["thumbnail", "image/webp", "thumbnail.webp"],
    ["spritesheet", "image/jpeg", "spritesheet.jpeg"],
  ]) {
    const content = await client.videos.downloadContent(video.id, variant && { variant });
    assert.equal(content.headers.get("content-type"), type);
    await writeFile(name, Buffer.from(await content.arrayBuffer()));
  }
  const other = await made(await client.videos.create({ ...film, input_reference: await png("picture.png") }));
  const listed = [];
  for await (const one of client.videos.list({ limit: 1 })) listed.push(one.id);
  assert.deepEqual(listed.slice(0, 2), [other.id, video.id]);
  const { id, deleted, object } = await client.videos.delete(video.id);
  assert.deepEqual({ id, deleted, object }, { id: video.id, deleted: true, object: "video.deleted" });
  await assert.rejects(client.videos.retrieve(video.id), OpenAI.NotFoundError);
  await assert.rejects(client.videos.downloadContent(video.id), OpenAI.NotFoundError);
});

test("errors", async () => {
  const generate = (members, other = client) => other.images.generate({ model, prompt: "boats", size, ...members });
  const refused = async (call, kind, facts) => {
    const error = await call.then(() => assert.fail("it was not refused"), (caught) => caught);
    assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
    const { status, code, param, type } = error;
    assert.deepEqual([status, code, param, type], facts);
    return error;
  };
  const invalid = "invalid_request_error";
  await refused(generate({ size: "1x1" }), OpenAI.BadRequestError, [400, "invalid_image_size", "size", invalid]);
  const prompt = "x";
  const image = await toFile(Buffer.from("%PDF"), "a.png");
  const nothing = client.images.edit({ model, prompt, image });
  await refused(nothing, OpenAI.BadRequestError, [400, "invalid_image", "image", invalid]);
  const tooLong = client.videos.create({ ...film, seconds: "99" });
  await refused(tooLong, OpenAI.BadRequestError, [400, "invalid_parameter", "seconds", invalid]);
  const unsupported = [400, "unsupported_operation", null, invalid];
  const video = { id: "task_none" };
  for (const change of [
    () => client.videos.remix(video.id, { prompt }),
    () => client.videos.edit({ prompt, video }),
    () => client.videos.extend({ prompt, seconds: "4", video }),
  ]) {
    await refused(change(), OpenAI.BadRequestError, unsupported);
  }
  const unknown = generate({ model: "no-such-model" });
  await refused(unknown, OpenAI.NotFoundError, [404, "model_not_found", "model", "not_found_error"]);
  const stranger = new OpenAI({ baseURL, apiKey: "hg_nobody" });
  const nobody = generate({}, stranger);
  await refused(nobody, OpenAI.AuthenticationError, [401, "invalid_api_key", null, "authentication_error"]);
  const limited = new OpenAI({ baseURL, apiKey: process.env.LIMITED_KEY, maxRetries: 0 });
  await generate({}, limited);
  const limits = [429, "rate_limit_exceeded", null, "rate_limit_error"];
  const error = await refused(generate({}, limited), OpenAI.RateLimitError, limits);
  assert.ok(Number(error.headers.get("retry-after")) > 0);
  const headers = { "Idempotency-Key": `node-${Date.now()}` };
  await client.images.generate({ model, prompt: "one", size }, { headers });
  const reused = client.images.generate({ model, prompt: "another", size }, { headers });
  await refused(reused, OpenAI.UnprocessableEntityError, [422, "idempotency_key_reused", null, invalid]);
  const scripted = generate({ model: "scripted-image", size: "64x64", script: "fails" });
  await refused(scripted, OpenAI.InternalServerError, [502, "provider_error", null, "provider_error"]);
});
