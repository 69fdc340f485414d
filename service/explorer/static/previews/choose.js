// How a dataset's rows are shown: as its `preview` says, else as its columns suggest.

import { ServiceError } from "../api.js";
import { h } from "../dom.js";
import { columnRows } from "../resources.js";
import { image } from "./image.js";
import { table } from "./table.js";
import { text, vocabulary } from "./text.js";

const DRAW = { image, table, text };

/** {kind, column, shape, …}: the preview, with the column's own record. */
export function previewOf(record) {
  const said = record.preview ?? guessed(record);
  const column = record.columns.find((each) => each.name === said?.column);
  return column ? { ...said, spec: column } : null;
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

/** Fetches rows; answers a function that draws one: draw(row, {large, label}). Rows that cannot be had are said so. */
export async function previews(record, rows, signal) {
  const preview = previewOf(record);
  if (!preview) return () => h("span", { class: "preview none" }, "no preview");
  try {
    const values = await columnRows(record, preview.column, rows, signal);
    const words = preview.kind === "text" ? await vocabulary(preview, signal) : null;
    return (row, options = {}) => DRAW[preview.kind](values.get(row), preview, options, words);
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    return () => h("span", { class: "preview none", title: error.message }, "no preview");
  }
}
