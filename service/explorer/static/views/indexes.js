// All indexes: of which model and rows, how near their answers are, and where each is asked.

import { json, path } from "../api.js";
import { h } from "../dom.js";
import { notice } from "../failure.js";
import { ago, count, number } from "../format.js";
import { jobLink, badge, subject } from "./job-parts.js";

const PAGE = 100;

export async function open(route, { signal }) {
  const { items } = await json(path("/v1/jobs", { kind: "index", limit: PAGE }), { signal });
  const about = await Promise.all(items.map((job) => subject(job, signal)));
  const headings = [["State", ""], ["Index", ""], ["Model", ""], ["Data", ""], ["Rows", "number"], ["Numbers a row", "number"], ["Recall", "number"], ["Made", ""]];
  return {
    title: "Indexes",
    element: h("section", {},
      h("div", { class: "view-head" }, h("h1", {}, "Indexes"), h("a", { class: "button primary", href: "#/new" }, "New job")),
      h("p", { class: "help" }, "An index says at once which training rows help and which harm a row that comes later."),
      items.length
        ? h("table", { class: "plain indexes" }, h("thead", {}, h("tr", {}, headings.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
            h("tbody", {}, items.map((job, index) => line(job, about[index]))))
        : notice("There is no index yet: start a job of kind index.")),
  };
}

function line(job, { model, data }) {
  const known = job.info?.index;
  return h("tr", {}, h("td", {}, badge(job.state)),
    h("th", { scope: "row" }, h("a", { href: jobLink(job, ...(job.state === "succeeded" ? ["ask"] : [])) }, job.name ?? job.id)),
    h("td", {}, model), h("td", {}, data),
    h("td", { class: "number" }, known ? count(known.rows) : ""),
    h("td", { class: "number" }, known ? count(known.numbers) : ""),
    h("td", { class: "number" }, known?.recall_after_rerank == null ? "" : number(known.recall_after_rerank, 3)),
    h("td", {}, ago(job.created_at)));
}
