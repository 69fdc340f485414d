// Fields for single values. Each is {element, read() -> value or undefined, write(value), fail(words)}.

import { freshId, h, replace } from "../dom.js";
import { number } from "../format.js";
import { itemTypes, typesOf } from "./schema.js";

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
  inversion: "method of inversion", top: "strongest rows of each test row", mean: "mean over the test rows",
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

/** A number, a word or JSON, whichever the schema allows. */
export function scalarField(name, schema, required) {
  const types = typesOf(schema);
  const control = input(schema, required, types.has("string") ? {} : { inputmode: "decimal" });
  return labelled(name, schema, control, () => scalar(control.value, types), (value) => { control.value = written(value, types); });
}

/** What was typed, as one of these types; what is none of them goes as it is, for the service to refuse in its own words. */
function scalar(text, types) {
  const trimmed = text.trim();
  if (!trimmed) return undefined;
  const isQuoted = /^"/.test(trimmed) && types.has("string");
  const isNested = /^[[{]/.test(trimmed) && (types.has("array") || types.has("object"));
  const isTruth = /^(true|false)$/.test(trimmed) && types.has("boolean");
  if (isQuoted || isNested || isTruth) {
    try {
      return JSON.parse(trimmed);
    } catch {
      return trimmed;
    }
  }
  const value = Number(trimmed);
  return Number.isNaN(value) || !(types.has("number") || types.has("integer")) ? trimmed : value;
}

/** The text that `scalar` reads as this value; nothing for a word where there is none, which another kind of job takes. */
function written(value, types) {
  if (value === null || value === undefined || (typeof value === "string" && !types.has("string"))) return "";
  if (typeof value === "object") return JSON.stringify(value);
  return scalar(String(value), types) === value ? String(value) : JSON.stringify(value);
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

/** Pairs, one a line: key=value. Where a key takes several values, each has a line of its own. */
export function pairsField(name, schema) {
  const inner = schema.additionalProperties ?? {};
  const several = inner.type === "array";
  const types = several ? itemTypes(inner) : typesOf(inner);
  const control = h("textarea", { rows: 2, placeholder: "key=value, one a line", spellcheck: "false" });
  const read = () => {
    const found = {};
    for (const line of control.value.split("\n").map((each) => each.trim()).filter(Boolean)) {
      const [key, ...rest] = line.split("=");
      const value = scalar(rest.join("="), types) ?? "";
      if (several) (found[key.trim()] ??= []).push(value);
      else found[key.trim()] = value;
    }
    return Object.keys(found).length ? found : undefined;
  };
  const write = (value) => {
    control.value = Object.entries(value ?? {}).flatMap(([key, given]) => [given].flat().map((each) => `${key}=${written(each, types)}`)).join("\n");
  };
  return labelled(name, schema, control, read, write);
}

/** Words or numbers, separated by commas. */
export function listField(name, schema) {
  const types = itemTypes(schema);
  const control = input({ ...schema, default: Array.isArray(schema.default) ? schema.default.join(", ") : undefined }, false);
  const read = () => {
    const found = control.value.split(",").map((each) => scalar(each, types)).filter((each) => each !== undefined);
    return found.length ? found : undefined;
  };
  return labelled(name, schema, control, read, (value) => { control.value = (value ?? []).map((each) => written(each, types)).join(", "); });
}

/** Entries that hold commas themselves, such as sets of rows: one a line. */
export function linesField(name, schema) {
  const types = itemTypes(schema);
  const control = h("textarea", { rows: 2, placeholder: ["one a line", ...(schema.examples?.[0] ?? [])].join("\n"), spellcheck: "false" });
  const read = () => {
    const found = control.value.split("\n").map((each) => scalar(each, types)).filter((each) => each !== undefined);
    return found.length ? found : undefined;
  };
  return labelled(name, schema, control, read, (value) => { control.value = (value ?? []).map((each) => written(each, types)).join("\n"); });
}
