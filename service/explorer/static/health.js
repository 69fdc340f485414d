// A banner while the service is not ready: unreachable, or without a worker.

import { ServiceError, json } from "./api.js";
import { h, replace } from "./dom.js";
import { wait } from "./events.js";

const CALM = 20_000;
const TROUBLED = 4_000;

export async function watchHealth(banner) {
  for (;;) {
    const missing = document.hidden ? null : await missingParts();
    if (missing) show(banner, missing);
    await wait(missing?.length ? TROUBLED : CALM);
  }
}

async function missingParts() {
  try {
    await json("/readyz");
    return [];
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    if (error.status === 0) return ["The service does not answer; trying again …"];
    return (error.problem.components ?? []).filter((part) => !part.ready).map(words);
  }
}

function words({ name, detail }) {
  if (name === "workers") return "No worker is running, so jobs wait. Start one: upweight worker";
  return `${name}: ${detail}`;
}

function show(banner, missing) {
  const text = missing.join(" · ");
  if (banner.textContent === text) return;
  replace(banner, text ? h("p", {}, text) : null);
}
