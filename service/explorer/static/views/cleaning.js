// Doubtful labels, decided one by one from the keyboard, and the dataset that comes of it.

import { json, path } from "../api.js";
import { announce, h, replace } from "../dom.js";
import { failure, notice } from "../failure.js";
import { count, plural } from "../format.js";
import { previews } from "../previews/choose.js";
import { className, dataset, nameOf } from "../resources.js";
import { link } from "../router.js";
import { Decisions, WORDS } from "./decisions.js";

const PAGE = 40;
const MOST_CLASSES = 200; // without names, in a list to choose from
const KEYS = { r: "right", w: "wrong", d: "drop", l: "relabel" };
const BY = {
  self_influences: "Those first that the model had to learn by heart: by the influence of a row on itself.",
  mean: "Those first that harm the test examples most: by the mean influence.",
};

export async function open(job, route, { signal }) {
  const [trainSet, testName] = await Promise.all([dataset(job.train_id, signal), job.test_id ? nameOf(job.test_id, signal) : ""]);
  const view = new Cleaning(job, trainSet, testName, signal);
  await view.load();
  return { element: view.element, update: async () => true };
}

class Cleaning {
  constructor(job, trainSet, testName, signal) {
    Object.assign(this, { job, trainSet, signal });
    this.items = [];
    this.rows = [];
    this.at = 0;
    this.decisions = new Decisions(job.id);
    this.body = h("tbody");
    this.message = h("div", { "aria-live": "polite" });
    this.about = h("p", { class: "help rule" });
    this.tally = h("p", { class: "tally", role: "status" });
    this.more = h("button", { type: "button", class: "more", hidden: true, onclick: () => this.load() }, "More");
    const headings = ["#", "Example", "Id", "Score", "Label", "Predicted", "Decision"];
    this.table = h("table", { class: "ranking cleaning" }, h("caption", { class: "sr-only" }, "Training rows whose labels deserve a look"),
      h("thead", {}, h("tr", {}, headings.map((name) => h("th", { scope: "col" }, name)))), this.body);
    this.undo = h("button", { type: "button", class: "undo", onclick: () => this.takeBack() }, "Undo");
    this.outcome = this.form(testName);
    this.element = h("section", { class: "cleaning-view", onkeydown: (event) => this.pressed(event) },
      h("div", { class: "view-head" }, h("h2", {}, "Clean the labels"), this.undo), this.about,
      h("p", { class: "help" }, "Keys: ", keys("r"), " the label is right, ", keys("w"), " it is wrong, ", keys("d"), " drop the row, ", keys("l"), " give another label, ", keys("u"), " undo, ", keys("↑"), " and ", keys("↓"), " move."),
      this.table, this.more, this.outcome);
    this.count();
  }

  async load() {
    const query = { offset: this.items.length, limit: PAGE, damping: this.job.at };
    const found = await json(path(`/v1/jobs/${this.job.id}/suspects`, query), { signal: this.signal });
    const draw = await previews(this.trainSet, found.items.map((item) => item.row), this.signal);
    this.table.classList.add(draw.kind);
    replace(this.about, BY[found.by], " A score near 0 is suspect: it is the share of the training rows that are more suspect.");
    for (const item of found.items) {
      const place = this.items.push(item) - 1;
      this.rows.push(this.row(place, item, draw));
      this.body.append(this.rows[place]);
    }
    this.more.hidden = this.items.length >= found.total;
    this.more.textContent = `More (${count(this.items.length)} of ${count(found.total)})`;
    this.choose(this.at, false);
  }

  row(place, item, draw) {
    const cell = h("td", { class: "decision" });
    const row = h("tr", { "data-row": item.row, tabindex: "-1", onclick: () => this.choose(place, false), onfocus: () => this.choose(place, false) },
      h("td", { class: "number" }, count(place + 1)),
      h("td", { class: "example" }, draw(item.row, { label: `Training row ${item.id}` })),
      h("td", { class: "number", "data-name": "id" }, String(item.id)),
      h("td", { class: "number", "data-name": "score" }, item.score.toFixed(4)),
      h("td", { "data-name": "label" }, h("span", { class: "target" }, className(this.trainSet, item.label))),
      h("td", { "data-name": "predicted", class: item.predicted !== item.label ? "wrong" : "" }, className(this.trainSet, item.predicted)),
      cell);
    row.cell = cell;
    this.show(row, item);
    return row;
  }

  /** The decision of a row, and what can be decided. */
  show(row, item) {
    const taken = this.decisions.of(item.id);
    row.dataset.decision = taken?.kind ?? "";
    const buttons = Object.values(KEYS).map((kind) =>
      h("button", { type: "button", class: "small", "aria-pressed": String(taken?.kind === kind), "aria-label": `${WORDS[kind]}: row ${item.id}`, onclick: (event) => {
        event.stopPropagation();
        this.choose(this.items.indexOf(item), false);
        this.decide(kind);
      } }, kind === "relabel" && taken?.kind === kind ? `→ ${className(this.trainSet, taken.label)}` : WORDS[kind]));
    replace(row.cell, h("div", { class: "buttons" }, buttons));
  }

  choose(place, focus = true) {
    if (!this.rows.length) return;
    this.rows[this.at]?.removeAttribute("aria-current");
    this.rows[this.at]?.setAttribute("tabindex", "-1");
    this.at = Math.max(0, Math.min(place, this.rows.length - 1));
    const row = this.rows[this.at];
    row.setAttribute("aria-current", "true");
    row.setAttribute("tabindex", "0");
    if (focus) row.focus();
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, form")) return;
    const kind = KEYS[event.key.toLowerCase()];
    if (kind) this.decide(kind);
    else if (event.key.toLowerCase() === "u") this.takeBack();
    else if (event.key === "ArrowDown" || event.key === "j") this.choose(this.at + 1);
    else if (event.key === "ArrowUp" || event.key === "k") this.choose(this.at - 1);
    else return;
    event.preventDefault();
  }

  async decide(kind) {
    const place = this.at;
    const item = this.items[place];
    const label = kind === "relabel" ? await this.askLabel(item) : null;
    if (kind === "relabel" && label === null) return this.choose(place);
    this.decisions.take(item.id, { kind, label, row: item.row, predicted: item.predicted, was: item.label });
    this.show(this.rows[place], item);
    announce(`Row ${item.id}: ${WORDS[kind]}`);
    this.count();
    if (place + 1 < this.rows.length) this.choose(place + 1);
    else if (!this.more.hidden) {
      await this.load();
      this.choose(place + 1);
    } else this.choose(place);
  }

  takeBack() {
    const id = this.decisions.undo();
    if (id === null) return;
    const place = this.items.findIndex((item) => item.id === id);
    if (place >= 0) {
      this.show(this.rows[place], this.items[place]);
      this.choose(place);
    }
    announce(`Undone: row ${id}`);
    this.count();
  }

  /** Another label from a dialog; null where it is closed without one. */
  askLabel(item) {
    const names = this.trainSet.class_names;
    const spec = this.trainSet.columns.find((each) => each.name === this.trainSet.targets[0]);
    const several = !names.length && /^(u?int|bool)/.test(spec?.dtype ?? "") && spec.maximum - spec.minimum < MOST_CLASSES;
    const classes = several ? Array.from({ length: spec.maximum - spec.minimum + 1 }, (_, at) => String(spec.minimum + at)) : names;
    const first = names.length ? 0 : (spec?.minimum ?? 0);
    const field = classes.length
      ? h("select", {}, classes.map((name, at) => h("option", { value: first + at }, name)))
      : h("input", { type: "number", step: "any", required: true });
    field.value = item.predicted ?? item.label ?? first;
    return new Promise((answer) => {
      const dialog = h("dialog", { "aria-label": `Label of row ${item.id}`, onclose: () => {
        dialog.remove();
        answer(dialog.returnValue === "take" && field.value !== "" ? Number(field.value) : null);
      } }, h("form", { method: "dialog" }, h("label", { class: "field" }, h("span", {}, `Label of row ${item.id}`), field),
        h("div", { class: "buttons" }, h("button", { class: "primary", value: "take" }, "Take"), h("button", { value: "", formnovalidate: true }, "Cancel"))));
      document.body.append(dialog);
      dialog.showModal();
    });
  }

  count() {
    const { drop, relabel, right } = this.decisions.changes(this.wrongs?.value ?? "drop");
    const parts = [plural(drop.length, "row") + " to drop", plural(Object.keys(relabel).length, "label") + " to replace", `${count(right)} right`];
    replace(this.tally, parts.join(" · "));
    this.undo.disabled = !this.decisions.canUndo;
    if (this.make) this.make.disabled = drop.length + Object.keys(relabel).length === 0;
  }

  /** What becomes of the decisions: a dataset, and a model trained on it. */
  form(testName) {
    this.name = h("input", { name: "name", required: true, value: `${this.trainSet.name.slice(0, 122)}-clean` });
    this.test = h("input", { name: "test", value: testName });
    this.wrongs = h("select", { onchange: () => this.count() }, h("option", { value: "drop" }, "drop the row"), h("option", { value: "predicted" }, "take what the model predicts"));
    this.make = h("button", { class: "primary" }, "Make dataset");
    this.next = h("div");
    const field = (words, input) => h("label", { class: "field" }, h("span", {}, words), input);
    return h("form", { class: "outcome", onsubmit: (event) => {
      event.preventDefault();
      this.derive();
    } }, h("h2", {}, "Make a dataset of it"), this.tally,
      h("div", { class: "fields" }, field("Name", this.name), field("Where a label is wrong", this.wrongs)),
      h("div", { class: "buttons" }, this.make), this.message, this.next);
  }

  async derive() {
    const { drop, relabel } = this.decisions.changes(this.wrongs.value);
    this.make.disabled = true;
    replace(this.message, notice("Making it …"));
    try {
      const body = { name: this.name.value.trim(), drop, relabel };
      let made = await json(`/v1/datasets/${this.trainSet.id}/derive`, { method: "POST", body, signal: this.signal });
      while (made.state === "checking") made = await json(`/v1/datasets/${made.id}?wait=30`, { signal: this.signal });
      if (made.state !== "ready") throw Object.assign(new Error(made.problem?.detail ?? "It was rejected."), { status: 0 });
      replace(this.message, notice(`${made.name}@${made.version} has ${plural(made.rows, "row")}.`));
      replace(this.next, this.retraining(made));
    } catch (error) {
      if (error.name === "AbortError") throw error;
      replace(this.message, error.status === undefined ? failure(error, () => this.derive()) : notice(error.message, "bad"));
    } finally {
      this.count();
    }
  }

  retraining(made) {
    const start = async (event) => {
      event.currentTarget.disabled = true;
      try {
        const test = this.test.value.trim();
        const body = { kind: "retrain", model: this.job.model_id, train: { dataset: made.id }, ...(test ? { test: { dataset: test } } : {}) };
        const job = await json("/v1/jobs", { method: "POST", body, signal: this.signal });
        location.hash = link(["jobs", job.id]);
      } catch (error) {
        if (error.name === "AbortError") throw error;
        replace(this.message, notice(error.message, "bad"));
        button.disabled = false;
      }
    };
    const button = h("button", { type: "button", class: "primary", onclick: start }, "Retrain on it");
    return h("div", { class: "retraining" }, h("label", { class: "field" }, h("span", {}, "Compare before and after on the dataset"), this.test), h("div", { class: "buttons" }, button));
  }
}

function keys(text) {
  return h("kbd", {}, text);
}
