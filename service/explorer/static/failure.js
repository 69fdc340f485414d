// A failure as people are told of it: what happened, and what to do.

import { h } from "./dom.js";

const HEADINGS = {
  0: "The service cannot be reached",
  401: "A key is needed",
  403: "This key may not do that",
  404: "Not found",
  429: "The queue is full",
  503: "A part of the service does not answer",
};

/** A block for the place of a view. */
export function failure(error, again) {
  if (error.status === undefined) console.error(error); // a defect of this page
  return h(
    "div",
    { class: "empty", role: "alert" },
    h("h1", {}, HEADINGS[error.status] ?? "That did not work"),
    h("p", {}, error.message),
    error.problem?.request_id ? h("p", { class: "help" }, `Request ${error.problem.request_id}`) : null,
    h("div", { class: "buttons" }, h("button", { type: "button", onclick: again }, "Try again"), h("a", { class: "button quiet", href: "#/jobs" }, "To the jobs")),
  );
}

/** A line for the place of a part. */
export function notice(text, kind = "") {
  return h("p", { class: `note ${kind}` }, text);
}
