// Records and rows that several views ask for, kept so that each is fetched once.

import { json, npy, path } from "./api.js";
import { number } from "./format.js";
import { row as rowOf } from "./npy.js";

const MOST_ROWS = 4000;
const records = new Map();
const rows = new Map(); // "dataset column row" -> numbers, the oldest first

/** A dataset's record; a ready one never changes. */
export function dataset(id, signal) {
  return kept(`/v1/datasets/${id}`, signal);
}

export function model(id, signal) {
  return kept(`/v1/models/${id}`, signal);
}

function kept(address, signal) {
  if (!records.has(address)) {
    const asked = json(address, { signal });
    records.set(address, asked);
    asked.catch(() => records.delete(address)); // asked again the next time
  }
  return records.get(address);
}

/** What a record is called, where people look: its name, or the id while that is not known. */
export async function nameOf(id, signal) {
  try {
    return (await (id.startsWith("mdl_") ? model : dataset)(id, signal)).name;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return id;
  }
}

/** Rows of one column: a Map from row to its numbers. Only those not seen lately are asked for. */
export async function columnRows(record, column, wanted, signal) {
  const name = (row) => `${record.id} ${column} ${row}`;
  const missing = [...new Set(wanted)].filter((row) => !rows.has(name(row))).sort((a, b) => a - b);
  for (let start = 0; start < missing.length; start += 500) {
    const part = missing.slice(start, start + 500);
    const found = await npy(path(`/v1/datasets/${record.id}/rows`, { rows: ranges(part), column }), { signal });
    part.forEach((row, index) => rows.set(name(row), rowOf(found, index)));
  }
  const chosen = new Map(wanted.map((row) => [row, rows.get(name(row))]));
  for (const key of rows.keys()) {
    if (rows.size <= MOST_ROWS) break;
    rows.delete(key);
  }
  return chosen;
}

/** Ascending numbers as the service takes them: `3,7:10`. */
export function ranges(numbers) {
  const parts = [];
  for (const each of numbers) {
    const last = parts.at(-1);
    if (last && last[1] === each) last[1] += 1;
    else parts.push([each, each + 1]);
  }
  return parts.map(([start, stop]) => (stop === start + 1 ? `${start}` : `${start}:${stop}`)).join(",");
}

/** What the model makes of a result's rows at these positions: a Map from position. Empty where it was not stored. */
export async function facts(job, side, positions, signal) {
  if (!job.result.stored.includes(`${side}_predictions`) || !positions.length) return new Map();
  const found = [];
  const wanted = [...new Set(positions)].sort((a, b) => a - b);
  for (let start = 0; start < wanted.length; start += 500) {
    const query = { side, rows: ranges(wanted.slice(start, start + 500)), limit: 1000 };
    found.push(...(await json(path(`/v1/jobs/${job.id}/rows`, query), { signal })).items);
  }
  return new Map(found.map((fact) => [fact.position, fact]));
}

/** A class by its name; a number as it is. */
export function className(record, value) {
  if (value === null || value === undefined) return "–";
  return record.class_names[value] ?? number(value, 4);
}

/** A record that has been changed is asked for again. */
export function forget(id) {
  for (const kind of ["datasets", "models"]) records.delete(`/v1/${kind}/${id}`);
}
