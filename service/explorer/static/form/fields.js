// Fields for single values. Each is {element, read() -> value or undefined, write(value), fail(words)}.

import { freshId, h, replace } from "../dom.js";
import { number } from "../format.js";

/** A field with its name, its help and a place for its error. `read` and `write` are the control's. */
function labelled(name, schema, control, read, write) {
  const id = freshId("field");
  const error = h("p", { class: "field-error", id: `${id}-error`, role: "alert" });
  const help = helpText(schema);
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-help ${id}-error`);
  control.addEventListener("input", () => fail(""));
  const element = h("div", { class: "field", "data-field": name }, h("label", { for: id }, title(name)), control, help ? h("p", { class: "help", id: `${id}-help` }, marked(help)) : null, error);

  function fail(words) {
    replace(error, marked(words));
    control.setAttribute("aria-invalid", String(Boolean(words)));
  }

  return { element, read, write, fail, focus: () => control.focus() };
}

function helpText({ description, minimum, maximum, exclusiveMinimum }) {
  const bounds = [];
  if (exclusiveMinimum !== undefined) bounds.push(`more than ${number(exclusiveMinimum)}`);
  if (minimum !== undefined && minimum !== 0) bounds.push(`at least ${number(minimum)}`);
  if (maximum !== undefined && maximum < 1e9) bounds.push(`at most ${number(maximum, 6)}`);
  const said = bounds.length ? `${bounds.join(", ")}.` : "";
  return [description, said && said[0].toUpperCase() + said.slice(1)].filter(Boolean).join(" ");
}

/** Text in which `backticks` mark code. */
export function marked(text) {
  return text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

const WORDS = {
  hessian_regularization: "λ (hessian_regularization)", timeout_s: "time limit, seconds", train: "training data", test: "test data", keep: "what to keep",
  kind: "what to compute", inversion: "method of inversion", top: "strongest rows of each test row", mean: "mean over the test rows",
  matrix: "whole matrix", hessian_on: "rows of the Hessian", rtol: "relative tolerance (rtol)", atol: "absolute tolerance (atol)", maxiter: "most iterations (maxiter)",
};

export function title(name) {
  const words = WORDS[name] ?? name.replaceAll("_", " ");
  return words.replace(/^[a-z]/, (letter) => letter.toUpperCase());
}

/** What an empty field means. */
function placeholder({ default: value, nullable, examples }, required) {
  if (value !== undefined && value !== null && typeof value !== "object") return String(value);
  if (nullable || !required) return examples?.length ? `${examples[0]}` : "default";
  return "";
}

function input(schema, required, properties = {}) {
  return h("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: placeholder(schema, required), required, ...properties });
}

export function textField(name, schema, required, choices) {
  const control = input(schema, required, choices ? { list: choices } : {});
  return labelled(name, schema, control, () => control.value.trim() || undefined, (value) => { control.value = value ?? ""; });
}

export function numberField(name, schema, required) {
  const control = input(schema, required, { inputmode: "decimal" });
  return labelled(name, schema, control, () => numeric(control.value), (value) => {
    const word = typeof value === "string" && schema.type && Number.isNaN(Number(value)); // that another kind of job takes
    control.value = value !== null && typeof value === "object" ? JSON.stringify(value) : word ? "" : value ?? "";
  });
}

/** What was typed as a number, or as JSON; what is neither goes as it is, for the service to refuse in its own words. */
function numeric(text) {
  const trimmed = text.trim();
  if (!trimmed) return undefined;
  if (/^[[{]/.test(trimmed)) {
    try {
      return JSON.parse(trimmed);
    } catch {
      return trimmed;
    }
  }
  const value = Number(trimmed);
  return Number.isNaN(value) ? trimmed : value;
}

export function choiceField(name, schema) {
  const options = schema.enum.map((value) => h("option", { value }, value));
  if (schema.nullable) options.unshift(h("option", { value: "" }, "default"));
  const control = h("select", {}, options);
  const write = (value) => { control.value = value ?? (schema.nullable ? "" : schema.default ?? schema.enum[0]); };
  write(schema.default);
  return labelled(name, schema, control, () => control.value || undefined, write);
}

export function switchField(name, schema) {
  if (schema.nullable) {
    const words = { ...schema, enum: ["yes", "no"] };
    const field = choiceField(name, words);
    return { ...field, read: () => ({ yes: true, no: false })[field.read()], write: (value) => field.write({ true: "yes", false: "no" }[value]) };
  }
  const control = h("input", { type: "checkbox" });
  control.checked = Boolean(schema.default);
  const field = labelled(name, schema, control, () => control.checked, (value) => { control.checked = Boolean(value ?? schema.default); });
  field.element.classList.add("switch");
  return field;
}

/** Pairs, one a line: key=value. */
export function pairsField(name, schema) {
  const control = h("textarea", { rows: 2, placeholder: "key=value, one a line", spellcheck: "false" });
  const read = () => {
    const lines = control.value.split("\n").map((line) => line.trim()).filter(Boolean);
    return lines.length ? Object.fromEntries(lines.map((line) => [line.split("=")[0].trim(), line.split("=").slice(1).join("=").trim()])) : undefined;
  };
  return labelled(name, schema, control, read, (value) => { control.value = Object.entries(value ?? {}).map((pair) => pair.join("=")).join("\n"); });
}

/** Words, separated by commas. */
export function listField(name, schema) {
  const control = input({ ...schema, default: Array.isArray(schema.default) ? schema.default.join(", ") : undefined }, false);
  const read = () => {
    const words = control.value.split(",").map((word) => word.trim()).filter(Boolean);
    return words.length ? words : undefined;
  };
  return labelled(name, schema, control, read, (value) => { control.value = (value ?? []).join(", "); });
}
