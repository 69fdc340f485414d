// HTTP to the service: the key goes along, failures come as the problem document that the service sent.

import { key } from "./session.js";
import { parseNpy } from "./npy.js";

export const ROOT = document.documentElement.dataset.root;

/** A failure in the service's own words; `errors` name fields by JSON pointer. */
export class ServiceError extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.title ?? "The service answered with an error.");
    this.problem = problem;
    this.type = problem.type;
    this.status = problem.status ?? 0;
    this.errors = problem.errors ?? [];
  }
}

/** The answer to a request. Raises ServiceError; status 0: the service cannot be reached. */
export async function request(path, { method = "GET", body, accept = "application/json", headers = {}, signal } = {}) {
  const sent = { Accept: accept, ...headers };
  const bearer = key();
  if (bearer) sent.Authorization = `Bearer ${bearer}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(ROOT + path, { method, headers: sent, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError({ type: "unreachable", status: 0, detail: "The service does not answer. It may be stopped, or starting; this page tries again." });
  }
  if (answer.ok) return answer;
  throw new ServiceError(await problemOf(answer));
}

async function problemOf(answer) {
  const retry = Number(answer.headers.get("retry-after")) || null;
  try {
    return { retry, ...(await answer.json()), status: answer.status };
  } catch {
    return { retry, status: answer.status, detail: `The service answered ${answer.status} ${answer.statusText}.` };
  }
}

export async function json(path, options = {}) {
  const answer = await request(path, options);
  return answer.status === 204 ? null : answer.json();
}

export async function npy(path, options = {}) {
  const answer = await request(path, { ...options, accept: "application/x-npy" });
  return parseNpy(await answer.arrayBuffer());
}

/** A path with its query; what is null is left out. */
export function path(base, query = {}) {
  const chosen = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return chosen.length ? `${base}?${new URLSearchParams(chosen)}` : base;
}
