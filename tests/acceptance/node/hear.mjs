// Follows tasks with the official client of a protocol, and prints what it hears, a line of JSON for each thing.
// Arguments: socketio or signalr, the gateway's address, a key or token, the hub, and a task to subscribe to and from
// where, if any. Ends with the first event that is the last one of its task.

import { HubConnectionBuilder, HttpTransportType, LogLevel } from "@microsoft/signalr";
import { io } from "socket.io-client";

const [protocol, url, token, hub, task, after] = process.argv.slice(2);
const words = ["Started", "Progress", "Completed", "Failed", "Cancelled"];
const kinds = ["ImageGeneration", "VideoGeneration"];
const names = [...kinds.flatMap((kind) => words.map((word) => kind + word)), "Preview"];
const last = ["Completed", "Failed", "Cancelled"];

function say(what, value) {
  console.log(JSON.stringify([what, value]));
}

function heard(name, members, leave) {
  say(name, members);
  if (last.some((word) => name.endsWith(word))) leave();
}

async function socketio() {
  const socket = io(`${url}/hubs/${hub}`, { auth: { token }, transports: ["websocket"], reconnection: false });
  for (const name of names) socket.on(name, (members) => heard(name, members, () => socket.disconnect()));
  socket.on("connect_error", (error) => { say("refused", error.data ?? error.message); socket.disconnect(); });
  socket.on("connect", async () => {
    say("connected", null);
    if (task) say("answer", await socket.emitWithAck("SubscribeToTask", task, { after: Number(after) }));
  });
}

async function signalr() {
  const connection = new HubConnectionBuilder()
    .withUrl(`${url}/hubs/${hub}`, { accessTokenFactory: () => token, transport: HttpTransportType.WebSockets })
    .configureLogging(LogLevel.None)
    .build();
  for (const name of names) connection.on(name, (members) => heard(name, members, () => connection.stop()));
  try {
    await connection.start();
  } catch (error) {
    return say("refused", error.message);
  }
  say("connected", null);
  if (task) say("answer", await connection.invoke("SubscribeToTask", task, { after: Number(after) }));
}

await { socketio, signalr }[protocol]();
