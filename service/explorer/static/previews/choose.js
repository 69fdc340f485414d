// How a dataset's rows are shown: as its `preview` says, else as its columns suggest.

import { ServiceError } from "../api.js";
import { h } from "../dom.js";
import { columnRows } from "../resources.js";
import { image } from "./image.js";
import { spreadOf, table } from "./table.js";
import { text, vocabulary } from "./text.js";

const DRAW = { image, table, text };
const SAMPLED_NUMBERS = 16_000; // of a table, to know how far its features spread
const SAMPLED_ROWS = 64;
const spreads = new Map();

/** {kind, column, shape, …}: the preview, with the column's own record. */
export function previewOf(record) {
  const said = record.preview ?? guessed(record);
  const column = record.columns.find((each) => each.name === said?.column);
  if (!column) return null;
  return { ...said, names: said.names?.length ? said.names : record.features?.[column.name], spec: column };
}

function guessed(record) {
  const first = record.columns.find((column) => record.inputs.includes(column.name));
  if (!first) return null;
  const { name: column, dtype, shape, minimum, maximum } = first;
  const ends = [shape[0], shape.at(-1)];
  if (shape.length === 2 || (shape.length === 3 && ends.some((length) => [1, 3, 4].includes(length)))) {
    return { kind: "image", column, minimum: minimum ?? 0, maximum: maximum ?? 1 };
  }
  return { kind: shape.length === 1 && /^u?int/.test(dtype) ? "text" : "table", column };
}

/**
 * Fetches rows; answers a function that draws one: draw(row, {large, label, other, otherName}), with what it draws as
 * `draw.kind` and a row's numbers as `draw.values(row)`. Rows that cannot be had are said so.
 */
export async function previews(record, rows, signal) {
  const preview = previewOf(record);
  const nothing = (words) => Object.assign(() => h("span", { class: "preview none", title: words }, "no preview"), { kind: "none", values: () => null });
  if (!preview) return nothing("");
  try {
    const [values, known] = await Promise.all([columnRows(record, preview.column, rows, signal), beside(record, preview, signal)]);
    const draw = (row, options = {}) => DRAW[preview.kind](values.get(row), preview, options, known);
    return Object.assign(draw, { kind: preview.kind, names: preview.names, values: (row) => values.get(row) });
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    return nothing(error.message);
  }
}

/** A table's row in the order of another dataset's features, to be held against its rows; null where they are not the same. */
export function comparable(drawn, row, like, likeRow) {
  if (drawn.kind !== "table" || like.kind !== "table") return null;
  const [values, length] = [drawn.values(row), like.values(likeRow).length];
  if (values.length !== length) return null;
  if (!drawn.names || !like.names) return values;
  const places = like.names.map((name) => drawn.names.indexOf(name));
  return places.includes(-1) ? null : places.map((place) => values[place]);
}

/** What a kind of preview wants to know beside the row. */
async function beside(record, preview, signal) {
  if (preview.kind === "text") return { words: await vocabulary(preview, signal) };
  return preview.kind === "table" ? { spread: await spread(record, preview, signal) } : {};
}

/** How far the features of a column spread, from some of its rows; asked for once. */
async function spread(record, { column, spec }, signal) {
  const name = `${record.id} ${column}`;
  if (!spreads.has(name)) {
    const width = spec.shape.reduce((product, length) => product * length, 1);
    const count = Math.max(2, Math.min(SAMPLED_ROWS, record.rows, Math.floor(SAMPLED_NUMBERS / width)));
    const rows = Array.from({ length: Math.min(count, record.rows) }, (_, index) => Math.floor((index * record.rows) / count));
    const asked = columnRows(record, column, rows, signal).then((found) => spreadOf([...found.values()], width));
    spreads.set(name, asked);
    asked.catch(() => spreads.delete(name));
  }
  return spreads.get(name);
}
