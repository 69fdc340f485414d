// Scores by token: the labels of a training row's positions, each on the colour of its part of the influence.

import { npy, path } from "../api.js";
import { strip, tokens, vocabulary } from "../previews/text.js";
import { className, columnRows, ranges } from "../resources.js";

/** A Map from the column of a ranked training row to its labels; empty where the job stored no such parts. */
export async function labelStrips(job, trainSet, position, items, signal) {
  const stored = job.result.stored.includes("by_token") && job.result.part_shape.length === 1;
  if (!stored || !items.length) return new Map();
  const columns = [...new Set(items.map((item) => item.column))].sort((a, b) => a - b);
  const query = { by: "token", test: position, train: ranges(columns), damping: job.at };
  const [parts, labels, words] = await Promise.all([
    npy(path(`/v1/jobs/${job.id}/influences`, query), { signal }),
    columnRows(trainSet, trainSet.targets[0], items.map((item) => item.row), signal),
    vocabulary(trainSet.preview ?? {}, signal),
  ]);
  const width = job.result.part_shape[0];
  const drawn = (item) => {
    const own = parts.values.subarray(columns.indexOf(item.column) * width, (columns.indexOf(item.column) + 1) * width);
    const known = Array.from(labels.get(item.row)).flatMap((label, place) => (label < 0 ? [] : [place]));
    const numbers = known.map((place) => labels.get(item.row)[place]);
    const named = trainSet.class_names.length ? numbers.map((label) => className(trainSet, label)) : tokens(numbers, words);
    return strip(named, known.map((place) => own[place]), `Training row ${item.row}, each label on the colour of its part of the influence`);
  };
  return new Map(items.map((item) => [item.column, drawn(item)]));
}
