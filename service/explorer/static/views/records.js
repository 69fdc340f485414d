// All models, or all datasets: the newest first, a page at a time.

import { json, path } from "../api.js";
import { h, replace } from "../dom.js";
import { ago, bytes, clock, count } from "../format.js";
import { link, replaceWith } from "../router.js";
import { badge } from "./job-parts.js";

const PAGE = 50;
const STATES = ["checking", "ready", "rejected"];
const WORDS = { models: "Models", datasets: "Datasets" };

export async function open(route, { signal }) {
  const [kind] = route.parts;
  const field = h("input", { type: "search", "aria-label": "Show all versions of a name", placeholder: "name", list: "names", value: route.query.name ?? "" });
  const select = h("select", { "aria-label": `Show ${kind} in state` }, ["", ...STATES].map((each) => h("option", { value: each }, each || "all states")));
  select.value = route.query.state ?? "";
  const narrow = () => replaceWith([kind], { state: select.value, name: field.value.trim() });
  field.addEventListener("change", narrow);
  select.addEventListener("change", narrow);
  const { name, state, label, after } = route.query;
  const page = await json(path(`/v1/${kind}`, { limit: PAGE, name, state, label, after }), { signal });
  const names = h("datalist", { id: "names" }, [...new Set(page.items.map((item) => item.name))].map((value) => h("option", { value })));
  const body = h("div", {});
  replace(body, page.items.length ? table(kind, page.items) : nothing(kind, Boolean(name || state || label)));
  return {
    title: WORDS[kind],
    element: h("section", {}, h("div", { class: "view-head" }, h("h1", {}, WORDS[kind]), select, field, names), body,
      h("nav", { class: "pages", "aria-label": "Pages" },
        after ? h("a", { class: "button", href: link([kind], { ...route.query, after: null }) }, "← Newest") : null,
        page.has_more ? h("a", { class: "button older", href: link([kind], { ...route.query, after: page.next_after }) }, "Older →") : null)),
  };
}

function table(kind, items) {
  const headings = ["State", "Name", kind === "models" ? "Network" : "Rows", "Labels", "Registered"];
  return h("table", { class: "jobs" }, h("caption", { class: "sr-only" }, `${WORDS[kind]}, newest first`),
    h("thead", {}, h("tr", {}, headings.map((each) => h("th", { scope: "col" }, each)))),
    h("tbody", {}, items.map((item) => h("tr", { "data-record": item.id },
      h("td", { class: "state" }, badge(item.state)),
      h("td", { class: "what" }, h("a", { href: link([kind, item.id]) }, `${item.name}@${item.version}`)),
      h("td", { class: "data" }, kind === "models" ? network(item) : rows(item)),
      h("td", { class: "data" }, h("span", { class: "chips" }, Object.entries(item.labels ?? {}).map((pair) => h("a", { class: "chip", href: link([kind], { label: pair.join("=") }) }, pair.join("="))))),
      h("td", { class: "when" }, h("time", { datetime: item.created_at, title: clock(item.created_at) }, ago(item.created_at)))))));
}

export function network(item) {
  return [item.parameter_count === null || item.parameter_count === undefined ? null : `${count(item.parameter_count)} parameters`, item.loss?.name].filter(Boolean).join(" · ");
}

export function rows(item) {
  return [item.rows === null ? null : `${count(item.rows)} rows`, bytes(item.size_bytes)].filter(Boolean).join(" · ");
}

function nothing(kind, narrowed) {
  const register = kind === "models" ? "client.models.register(\"net\", net, example=x, loss=\"cross_entropy\")" : "client.datasets.register(\"train\", x=x, y=y)";
  return narrowed
    ? h("div", { class: "empty" }, h("p", {}, `No such ${kind}.`), h("a", { href: link([kind]) }, "Show all"))
    : h("div", { class: "empty" }, h("h2", {}, `No ${kind} yet`), h("p", {}, "They are registered from Python, with the command, or over HTTP:"), h("code", {}, register));
}
