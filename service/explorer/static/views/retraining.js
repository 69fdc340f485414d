// A training: its losses while it goes on and after, and the model that it gave.

import { lines } from "../charts/plots.js";
import { h } from "../dom.js";
import { count, number, percent } from "../format.js";

/** The losses of a job, epoch by epoch; null where there are none. */
export function losses(job) {
  const { curve } = job;
  if (!curve?.epochs.length) return null;
  const last = curve.epochs.at(-1);
  const series = [{ name: "training rows", steps: curve.epochs, values: curve.train_loss }];
  if (curve.test_epochs.length) series.push({ name: "test rows", steps: curve.test_epochs, values: curve.test_loss, kind: "other" });
  const accuracy = curve.test_accuracy.at(-1);
  const summary = [
    `After ${count(last)} epoch${last === 1 ? "" : "s"} the loss is ${number(curve.train_loss.at(-1), 4)} on training rows`,
    curve.test_loss.length ? `, ${number(curve.test_loss.at(-1), 4)} on test rows` : "",
    accuracy === undefined || accuracy === null ? "." : `, with an accuracy of ${percent(accuracy)}.`,
  ].join("");
  return lines({ title: "Losses", summary, series, xName: "epoch", yName: "mean loss" });
}

/** The model that a job gave. */
export function modelMade(job) {
  if (!job.model) return null;
  const { name, version, id } = job.model;
  return h("p", {}, "It gave the model ", h("strong", {}, `${name}@${version}`), ", ", h("code", {}, id), ".");
}
