// What the OpenAPI document says of a value: references followed, null split off, the kind of field found.

import { json } from "../api.js";

let loading = null;

/** The document; asked for once. */
export function openapi(signal) {
  loading ??= json("/openapi.json", { signal }).catch((error) => {
    loading = null;
    throw error;
  });
  return loading;
}

/** What the document says of the inversion methods, by name: {label, answer, suggested}. */
export async function methods(signal) {
  return methodsOf(await openapi(signal));
}

export function methodsOf({ components: { schemas } }) {
  return Object.fromEntries(Object.values(schemas).filter((each) => each["x-method"]).map((each) => [each.properties.method.const, each["x-method"]]));
}

/** What the document says of curvatures: {kinds, structures}, by name, and the `usual` one, of jobs that do not say. */
export async function curvatures(signal) {
  const { Curvature: found } = (await openapi(signal)).components.schemas;
  const { kind, structure } = found.properties;
  return { kinds: found["x-kinds"], structures: found["x-structures"], usual: { kind: kind.default, structure: structure.default } };
}

/**
 * A schema with its references followed: {nullable, description, …}. What stands beside a reference
 * (a description, a default) is kept over what stands behind it.
 */
export function resolved(schema, document) {
  let found = { ...schema };
  for (;;) {
    if (found.$ref) {
      const { $ref, ...beside } = found;
      found = { ...document.components.schemas[$ref.split("/").at(-1)], ...beside };
    } else if (found.allOf?.length === 1) {
      const { allOf, ...beside } = found;
      found = { ...allOf[0], ...beside };
    } else if (found.anyOf?.some((each) => each.type === "null")) {
      const { anyOf, ...beside } = found;
      const rest = anyOf.filter((each) => each.type !== "null");
      found = rest.length === 1 ? { ...rest[0], ...beside, nullable: true } : { anyOf: rest, ...beside, nullable: true };
    } else if (!found.discriminator && found.oneOf?.every((each) => each.discriminator)) {
      const { oneOf, ...beside } = found;
      return { ...beside, unions: oneOf.map((each) => each.discriminator) };
    } else {
      return found.discriminator ? { ...found, unions: [found.discriminator] } : found;
    }
  }
}

/** Whether a value has all that its schema cannot do without, itself and in what it holds. */
export function isComplete(schema, value, document) {
  let found = resolved(schema, document);
  for (const { propertyName, mapping } of found.unions ?? [])
    if (mapping[value?.[propertyName]]) found = resolved({ $ref: mapping[value[propertyName]] }, document);
  if (!found.properties || value === null || typeof value !== "object") return true;
  if (found.required?.some((name) => value[name] === undefined)) return false;
  return Object.entries(found.properties).every(([name, each]) => value[name] === undefined || isComplete(each, value[name], document));
}

/** Which field a resolved schema wants. */
export function fieldKind(schema) {
  if (schema.unions) return "union";
  if (schema.properties) return "object";
  if (schema.const !== undefined) return "constant";
  if (schema.enum) return "choice";
  if (schema.type === "boolean") return "switch";
  if (schema.type === "object") return "pairs";
  if (schema.type === "array") return ["array", "object"].some((each) => itemTypes(schema).has(each)) ? "lines" : "list";
  if (schema.type === "integer" || schema.type === "number") return "number";
  if (schema.anyOf || schema.oneOf) return "mixed"; // a number, or a word
  return "text";
}

/** The types of JSON that a resolved schema allows. */
export function typesOf({ type, const: constant, anyOf, oneOf, $ref, properties }) {
  const inner = [...(anyOf ?? []), ...(oneOf ?? [])];
  if (inner.length) return new Set(inner.flatMap((each) => [...typesOf(each)]));
  return new Set([type ?? ($ref || properties ? "object" : typeof constant)]);
}

/** Those of an array's items. */
export function itemTypes({ items, prefixItems }) {
  return typesOf(items ?? prefixItems?.[0] ?? { type: "string" });
}
