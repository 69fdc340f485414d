// What every plot has: a size that fits the window, axes with their names, a grid.

import { h, svg } from "../dom.js";
import { number } from "../format.js";

const EDGES = { left: 62, right: 16, top: 14, bottom: 46 };

/** {width, height, x: [from, to], y: [from, to]}: where there is room for marks. */
export function room() {
  const width = matchMedia("(max-width: 640px)").matches ? 350 : 560;
  const height = width === 350 ? 240 : 280;
  return { width, height, x: [EDGES.left, width - EDGES.right], y: [height - EDGES.bottom, EDGES.top] };
}

/** A plot as a figure. `x` and `y` are {scale, name}; `marks` are drawn over the grid. */
export function plot({ title, summary, area, x, y, marks }) {
  const chart = svg(
    "svg",
    { viewBox: `0 0 ${area.width} ${area.height}`, class: "chart", role: "img", "aria-label": `${title}. ${summary}` },
    y.scale.ticks.map((tick) => line(area.x[0], y.scale.at(tick), area.x[1], y.scale.at(tick), "grid")),
    y.scale.ticks.map((tick) => text(area.x[0] - 8, y.scale.at(tick) + 4, number(tick), "tick end")),
    x.scale.ticks.map((tick) => text(x.scale.at(tick), area.y[0] + 18, number(tick), "tick middle")),
    line(area.x[0], area.y[0], area.x[1], area.y[0], "axis"),
    text((area.x[0] + area.x[1]) / 2, area.height - 6, x.name, "axis-name middle"),
    svg("text", { class: "axis-name middle", transform: `translate(13 ${(area.y[0] + area.y[1]) / 2}) rotate(-90)` }, y.name),
    marks,
  );
  return h("figure", { class: "plot" }, h("figcaption", {}, title), chart, h("p", { class: "help" }, summary));
}

export function line(x1, y1, x2, y2, kind) {
  return svg("line", { x1, y1, x2, y2, class: kind });
}

export function text(x, y, words, kind) {
  return svg("text", { x, y, class: kind }, words);
}
