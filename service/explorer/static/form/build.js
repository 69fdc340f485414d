// A form from a schema: objects and unions of them, down to single values; errors find their field by JSON pointer.

import { freshId, h, replace } from "../dom.js";
import { choiceField, linesField, listField, marked, pairsField, scalarField, switchField, textField, title } from "./fields.js";
import { fieldKind, resolved } from "./schema.js";

/** {element, read(), write(value), fail(words), at(pointer parts) -> field}; `choices` names datalists by field. */
export function build(name, schema, context, required = false) {
  const found = resolved(schema, context.document);
  const makers = { union, object, constant, choice: choiceField, switch: switchField, pairs: pairsField, list: listField, lines: linesField, number: scalarField, mixed: scalarField, text: textField };
  const kind = fieldKind(found);
  if (kind === "union" || kind === "object") return makers[kind](name, found, context, required);
  const field = makers[kind](name, found, required, context.choices[name]);
  return { ...field, at: () => field };
}

function constant(name, schema) {
  return { element: null, read: () => schema.const, write: () => {}, fail: () => {}, focus: () => {} };
}

/** Fields of an object; those that `context.aside` names are folded away. Left out whole where it is optional and empty. */
function object(name, schema, context, required) {
  const place = (key) => (context.order.indexOf(key) + 1 || context.order.length + 1);
  const named = Object.entries(schema.properties).sort(([a], [b]) => place(a) - place(b));
  const fields = named.map(([key, each]) => [key, build(key, each, context, schema.required?.includes(key))]);
  const visible = fields.filter(([, field]) => field.element);
  const aside = visible.filter(([key]) => context.aside.has(key));
  const body = visible.filter(([key]) => !context.aside.has(key)).map(([, field]) => field.element);
  if (aside.length) body.push(h("details", { class: "aside" }, h("summary", {}, "More settings"), h("div", { class: "fields" }, aside.map(([, field]) => field.element))));
  const error = h("p", { class: "field-error", role: "alert" });
  const words = name && schema.nullable ? null : schema.description;
  const element = name
    ? h("fieldset", { "data-field": name }, h("legend", {}, title(name)), words ? h("p", { class: "help" }, marked(words)) : null, error, h("div", { class: "fields" }, body))
    : h("div", { class: "fields" }, body);
  const map = new Map(fields);
  const self = {
    element,
    read() {
      const entries = fields.map(([key, field]) => [key, field.read()]).filter(([, value]) => value !== undefined);
      const said = entries.filter(([key]) => map.get(key).element);
      return said.length || required || !name ? Object.fromEntries(entries) : undefined;
    },
    write(value) {
      for (const [key, field] of fields) field.write(value?.[key]);
      for (const details of element.querySelectorAll("details")) details.open = false;
    },
    fail(text) {
      replace(error, marked(text));
      for (const [, field] of fields) if (!text) field.fail("");
    },
    focus: () => visible[0]?.[1].focus(),
    at: ([key, ...rest]) => (key === undefined ? self : map.has(key) ? (map.get(key).at?.(rest) ?? map.get(key)) : self),
  };
  return self;
}

/** A choice between objects by their discriminator, as a list; an optional one may be none of them. */
function union(name, schema, context, required) {
  const members = new Map();
  for (const { propertyName, mapping } of schema.unions)
    for (const [tag, $ref] of Object.entries(mapping)) if (!members.has(tag)) members.set(tag, { propertyName, $ref });
  const [{ propertyName }] = schema.unions;
  const id = freshId("union");
  const tags = [...members.keys()];
  const optional = schema.nullable || !required;
  const select = h("select", { id, onchange: () => choose(select.value) }, optional ? h("option", { value: "" }, "none") : null, tags.map((tag) => h("option", { value: tag }, tag)));
  const body = h("div", { class: "union-body" });
  const error = h("p", { class: "field-error", role: "alert" });
  let member = null;

  function choose(tag) {
    select.value = tag;
    error.textContent = "";
    if (!tag) {
      member = null;
      replace(body);
      return;
    }
    const kept = member?.read();
    const { propertyName: key, $ref } = members.get(tag);
    member = build("", { $ref }, context, true);
    if (name === null) member.write({ ...context.initial, ...kept, [key]: tag });
    const words = resolved({ $ref }, context.document).description;
    replace(body, words ? h("p", { class: "help" }, marked(words)) : null, member.element);
  }

  choose(optional ? "" : tags.includes(context.first[propertyName]) ? context.first[propertyName] : tags[0]);
  const chooser = h("div", { class: "field" }, h("label", { for: id }, name === null ? "What to compute" : title(propertyName)), select, error);
  const element = name ? h("fieldset", { "data-field": name }, h("legend", {}, title(name)), chooser, body) : h("div", { class: "fields" }, chooser, body);
  const self = {
    element,
    read: () => (member === null ? undefined : { ...member.read(), [members.get(select.value).propertyName]: select.value }),
    write(value) {
      if (value === undefined || value === null) return choose(optional ? "" : select.value);
      choose(schema.unions.map((each) => value[each.propertyName]).find((tag) => members.has(tag)) ?? tags[0]);
      member.write(value);
    },
    fail(text) {
      replace(error, marked(text));
      if (!text) member?.fail("");
    },
    focus: () => select.focus(),
    at: (parts) => (parts[0] === propertyName || parts.length === 0 || member === null ? self : member.at(parts)),
  };
  return self;
}
