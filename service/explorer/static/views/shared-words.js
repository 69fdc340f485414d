// Beside the influences on a text: the training rows that share its most telling words, which no model was asked about.

import { json, path } from "../api.js";
import { h, replace } from "../dom.js";
import { notice } from "../failure.js";
import { padded } from "../format.js";
import { previews } from "../previews/choose.js";
import { facts } from "../resources.js";
import { rowName, verdict, verdictWords } from "./example.js";

const STRONGEST = 8;

/** A fold that fetches them when it is opened. `listed`: the rows that the influences have in their lists. */
export function sharedWords(job, trainSet, position, listed, signal) {
  const body = h("div", { "aria-live": "polite" });
  let asked = false;
  const fold = h("details", { class: "aside shared-words", ontoggle: async () => {
    if (asked || !fold.open) return;
    asked = true;
    try {
      replace(body, await cards(job, trainSet, position, listed, signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      replace(body, notice(error.message, "bad"));
    }
  } }, h("summary", {}, "Rows that share the most telling words (BM25)"), body);
  return fold;
}

async function cards(job, trainSet, position, listed, signal) {
  const { items } = await json(path(`/v1/jobs/${job.id}/bm25`, { test: position, k: STRONGEST }), { signal });
  const found = items.filter((item) => item.score > 0);
  if (!found.length) return notice("No training row shares a word with it.");
  const [draw, known] = await Promise.all([
    previews(trainSet, found.map((item) => item.row), signal),
    facts(job, "train", found.map((item) => item.column), signal),
  ]);
  return [
    h("p", { class: "help" }, "Ranked by the words alone, as a search engine would: what the influences should know more than."),
    h("ol", { class: "cards" }, found.map((item) => card(draw, item, trainSet, known.get(item.column), found[0].score, listed.has(item.row)))),
  ];
}

function card(draw, item, record, fact, most, isListed) {
  const words = verdictWords(record, fact);
  return h("li", { class: `card matched ${draw.kind}`, "data-row": item.row },
    draw(item.row, { label: `Training row ${item.row}${words ? `, ${words}` : ""}` }),
    h("div", { class: "card-text" },
      h("div", { class: "score", title: String(item.score) }, padded(item.score)),
      h("div", { class: "score-bar", "aria-hidden": "true" }, h("span", { style: { width: `${(100 * item.score) / most}%` } })),
      verdict(record, fact),
      h("div", { class: "row-number" }, rowName({ row: item.row, id: fact?.id ?? item.id }), isListed ? " · listed above, too" : null)));
}
