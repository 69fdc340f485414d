// One model or one dataset: what it is, its versions, what used it; of a dataset some rows, and how they are shown.

import { json, path } from "../api.js";
import { h, replace } from "../dom.js";
import { notice } from "../failure.js";
import { ago, clock, count, number } from "../format.js";
import { previewOf, previews } from "../previews/choose.js";
import { className, columnRows, forget } from "../resources.js";
import { link } from "../router.js";
import { badge, jobLink, kindOf } from "./job-parts.js";
import { facts } from "./overview.js";
import { network, rows } from "./records.js";

const SHOWN = 12; // rows
const LISTED = 10; // versions, and jobs

export async function open(route, { signal, reopen }) {
  const [kind, reference] = route.parts;
  const found = await json(`/v1/${kind}/${encodeURIComponent(reference)}`, { signal });
  const [versions, used] = await Promise.all([
    json(path(`/v1/${kind}`, { limit: LISTED, ...(kind === "datasets" ? { name: found.name } : { name: found.name }) }), { signal }),
    json(path("/v1/jobs", { limit: LISTED, [kind === "models" ? "model" : "dataset"]: found.id }), { signal }),
  ]);
  const called = `${found.name}@${found.version}`;
  const starting = kind === "models" ? { model: called } : { train: called };
  const sections = [section("About", facts(kind === "models" ? ofModel(found) : ofDataset(found))), versionList(kind, found, versions.items), jobList(kind, found, used)];
  if (kind === "datasets") sections.splice(1, 0, section("Columns", columnTable(found)));
  return {
    title: called,
    element: h("section", { class: "record" }, h("a", { class: "back", href: link([kind]) }, `← ${kind === "models" ? "Models" : "Datasets"}`),
      h("div", { class: "view-head" }, h("h1", {}, called), badge(found.state), h("a", { class: "button primary", href: link(["new"], starting) }, kind === "models" ? "New job with it" : "New job on it")),
      found.problem ? h("div", { class: "note bad" }, h("strong", {}, found.problem.title), h("p", {}, found.problem.detail)) : null,
      kind === "datasets" && found.state === "ready" && found.rows ? await gallery(found, signal, reopen) : null,
      h("div", { class: "columns" }, sections)),
  };
}

function section(title, ...content) {
  return h("section", {}, h("h2", {}, title), content);
}

function common(found) {
  return [["Id", h("code", {}, found.id)], ["Registered", clock(found.created_at)], ["Checked", clock(found.checked_at)], ...Object.entries(found.labels ?? {})];
}

function ofModel(found) {
  return [["Network", network(found)], ["Precision", found.precision ?? "–"], ["Program", found.program?.format ?? "–"],
    ["Trained from", found.training ? `${found.training.parent.name}@${found.training.parent.version}` : "–"], ...common(found)];
}

function ofDataset(found) {
  const from = found.derived_from;
  return [["Rows", rows(found)], ["Inputs", found.inputs.join(", ")], ["Targets", found.targets.join(", ") || "–"], ["Ids", found.ids ?? "row numbers"],
    ["Metadata", found.metadata_columns.map(({ name, values }) => (values?.length ? `${name}: ${values.slice(0, 8).join(", ")}${values.length > 8 ? ", …" : ""}` : name)).join("; ") || "–"],
    ["Classes", found.class_names.length ? `${count(found.class_names.length)}: ${found.class_names.slice(0, 12).join(", ")}${found.class_names.length > 12 ? ", …" : ""}` : "–"],
    ["Derived from", from ? h("a", { href: link(["datasets", from.dataset]) }, from.dataset) : "–"], ...common(found)];
}

function columnTable(found) {
  const range = ({ minimum, maximum }) => (minimum === null || minimum === undefined ? "" : `${number(minimum)} to ${number(maximum)}`);
  return h("table", { class: "plain" }, h("tbody", {}, found.columns.map((column) => h("tr", {}, h("th", { scope: "row" }, column.name), h("td", {}, column.dtype),
    h("td", {}, column.shape.length ? `(${column.shape.join(", ")})` : "one number"), h("td", { class: "number" }, range(column))))));
}

function versionList(kind, found, items) {
  return section("Versions", h("ul", { class: "versions" }, items.map((each) => h("li", {}, each.id === found.id ? h("b", {}, `${each.name}@${each.version}`) : h("a", { href: link([kind, each.id]) }, `${each.name}@${each.version}`), ` · ${ago(each.created_at)}`))));
}

function jobList(kind, found, used) {
  if (!used.items.length) return section("Jobs", h("p", { class: "help" }, "No job has used it."));
  return section("Jobs", h("ul", {}, used.items.map((job) => h("li", {}, h("a", { href: jobLink(job) }, job.name ?? kindOf(job)), ` · ${job.state} · ${ago(job.created_at)}`))),
    used.has_more ? h("a", { href: link(["jobs"], { [kind === "models" ? "model" : "dataset"]: found.id }) }, "All of them") : null);
}

/** Some rows as they are shown, and a form to show them in another way. */
async function gallery(found, signal, reopen) {
  const shown = Array.from({ length: Math.min(SHOWN, found.rows) }, (_, index) => index);
  const list = h("ul", { "aria-label": "The first rows" });
  const message = h("div", { "aria-live": "polite" });
  const show = async (record) => {
    const [draw, labels] = await Promise.all([previews(record, shown, signal), labelsOf(record, shown, signal)]);
    list.className = `gallery ${draw.kind}`;
    replace(list, shown.map((row) => h("li", {}, h("div", { class: "row-number" }, `row ${row}`, labels ? [" · ", h("b", {}, className(record, labels.get(row)[0]))] : null), draw(row, { label: `Row ${row}` }))));
  };
  await show(found);
  return h("section", { class: "rows" }, h("h2", {}, "Rows"), list, previewForm(found, message, show, reopen, await offered(found, signal)), message);
}

/** The label of each row, where a dataset has one number of it a row; else null. */
async function labelsOf(record, shown, signal) {
  const column = record.columns.find(({ name, shape }) => name === record.targets[0] && shape.length === 0);
  return column ? columnRows(record, column.name, shown, signal) : null;
}

/** A square of pixels that a row of numbers may be: {column, shape}, or null. */
async function offered(found, signal) {
  const preview = previewOf(found);
  const length = preview?.spec.shape.length === 1 ? preview.spec.shape[0] : 0;
  const side = Math.sqrt(length);
  if (preview?.kind !== "table" || preview.names?.length || !Number.isInteger(side) || side < 4) return null;
  await columnRows(found, preview.column, [0], signal);
  return { column: preview.column, shape: [side, side] };
}

function previewForm(found, message, show, reopen, square) {
  const now = previewOf(found) ?? { kind: "table", column: found.inputs[0] };
  const kind = h("select", {}, [["table", "a table"], ["image", "a picture"], ["text", "a text"]].map(([value, words]) => h("option", { value }, words)));
  const column = h("select", {}, found.columns.map(({ name }) => h("option", { value: name }, name)));
  const shape = h("input", { placeholder: "8, 8", value: (now.kind === "image" ? now.shape ?? [] : square?.shape ?? []).join(", ") });
  kind.value = now.kind;
  column.value = now.column;
  const field = (words, control) => h("label", { class: "field" }, h("span", {}, words), control);
  const shapeField = field("Height, width", shape);
  const wanted = () => {
    const spec = found.columns.find(({ name }) => name === column.value);
    const sizes = shape.value.split(/[,×x ]+/).map((part) => part.trim()).filter(Boolean).map(Number);
    if (kind.value !== "image") return { kind: kind.value, column: column.value, ...(kind.value === "text" && found.preview?.vocabulary ? { vocabulary: found.preview.vocabulary } : {}) };
    return { kind: "image", column: column.value, ...(sizes.length ? { shape: sizes } : {}), minimum: spec?.minimum ?? 0, maximum: spec?.maximum ?? 1 };
  };
  const fit = () => { shapeField.hidden = kind.value !== "image"; };
  kind.addEventListener("change", fit);
  fit();
  const save = async (event) => {
    event?.preventDefault();
    try {
      await json(`/v1/datasets/${found.id}`, { method: "PATCH", body: { preview: wanted() } });
      forget(found.id);
      reopen();
    } catch (error) {
      if (error.status === undefined) throw error;
      replace(message, notice(error.message, "bad"));
    }
  };
  const asPicture = () => {
    kind.value = "image";
    save();
  };
  return [
    square ? h("p", { class: "note" }, `These ${count(square.shape[0] ** 2)} numbers may be a picture of ${square.shape.join(" × ")}. `, h("button", { type: "button", class: "small as-picture", onclick: asPicture }, "Show it as one")) : null,
    h("details", { class: "aside" }, h("summary", {}, "Show rows in another way"),
      h("form", { class: "preview-form", onsubmit: save }, h("div", { class: "fields" }, field("A row is", kind), field("Column", column), shapeField), h("div", { class: "buttons" }, h("button", { class: "primary" }, "Show them so")))),
  ];
}
