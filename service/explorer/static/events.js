// Server-sent events, of a job and of a question. EventSource can send neither a key nor a body, so the stream is read with fetch.

import { ServiceError, request } from "./api.js";

/** Calls `onJob` with each record until the job has ended or `signal` aborts; reconnects with growing pauses. */
export async function follow(id, onJob, signal) {
  let seen = null;
  let pause = 500;
  while (!signal.aborted) {
    try {
      const headers = seen === null ? {} : { "Last-Event-ID": seen };
      const answer = await request(`/v1/jobs/${id}/events`, { accept: "text/event-stream", headers, signal });
      if (answer.status === 204) return;
      for await (const event of parsed(answer.body)) {
        if (event.event !== "job") continue;
        seen = event.id;
        pause = 500;
        const job = JSON.parse(event.data);
        onJob(job);
        if (["succeeded", "failed", "cancelled"].includes(job.state)) return;
      }
    } catch (error) {
      if (error.name === "AbortError" || error.status === 404 || error.status === 401) return;
    }
    await wait(pause, signal);
    pause = Math.min(pause * 2, 15_000);
  }
}

/** The answer to a question that is sent; `onProgress` is called with what goes on until it is there. Raises ServiceError. */
export async function answered(path, body, onProgress, signal) {
  const answer = await request(path, { method: "POST", body, accept: "text/event-stream", signal });
  for await (const event of parsed(answer.body)) {
    if (event.event === "progress") onProgress(JSON.parse(event.data));
    if (event.event === "answer") return JSON.parse(event.data);
    if (event.event === "problem") throw new ServiceError(JSON.parse(event.data));
  }
  throw new ServiceError({ detail: "The connection ended before the answer was there. Ask again." });
}

/** Resolves after some milliseconds, or at once when `signal` aborts. */
export function wait(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

async function* parsed(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) yield eventOf(part);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function eventOf(text) {
  const event = { event: "message", id: null, data: "" };
  for (const line of text.split("\n")) {
    const [, name, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (name === "data") event.data += event.data ? `\n${value}` : value;
    else if (name) event[name] = value;
  }
  return event;
}
