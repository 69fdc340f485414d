// A row as text: token numbers, and the words that they stand for where the dataset has a vocabulary.

import { request } from "../api.js";
import { h } from "../dom.js";
import { signed } from "../format.js";

const MOST_BYTES = 32 * 1024 ** 2;
const PADDING = /^(<\|?pad\|?>|\[pad\])$/i; // fills a row up, says nothing
const known = new Map();

/** The words of a vocabulary blob, a JSON list; null where there is none, or it is too large to show. */
export async function vocabulary({ vocabulary: digest }, signal) {
  if (!digest) return null;
  if (!known.has(digest)) {
    const answer = await request(`/v1/blobs/${digest}`, { accept: "*/*", signal });
    const small = Number(answer.headers.get("content-length") ?? 0) <= MOST_BYTES;
    const words = small ? await answer.json().catch(() => null) : null;
    known.set(digest, Array.isArray(words) ? words : null);
  }
  return known.get(digest);
}

/** The tokens of a row as words. */
export function tokens(values, words) {
  return Array.from(values, (token) => (words?.[token] === undefined ? `⟨${token}⟩` : String(words[token])));
}

export function text(values, preview, { large = false, label = "" } = {}, { words = null } = {}) {
  const said = tokens(values, words).filter((word) => !PADDING.test(word));
  return h("p", { class: `preview text${large ? " large" : ""}`, title: label }, said.join(between(words)));
}

/** What stands between words: nothing where they bring their own spaces, as pieces of a tokenizer do. */
function between(words) {
  return words?.some((word) => String(word).startsWith(" ")) ? "" : " ";
}

/** Words, each on the colour of its number: the stronger, the larger it is. */
export function strip(words, numbers, label) {
  const gap = between(words);
  const most = Math.max(...Array.from(numbers, Math.abs), Number.MIN_VALUE);
  const word = (each, place) => h("span", {
    class: `token ${numbers[place] < 0 ? "harmful" : "helpful"}`, title: `${each} (position ${place}): ${signed(numbers[place])}`,
    style: { "--share": `${Math.round(40 * (Math.abs(numbers[place]) / most) ** 0.75)}%` },
  }, each);
  return h("p", { class: "preview text large strip", "aria-label": label }, words.map((each, place) => [word(each, place), gap]));
}
