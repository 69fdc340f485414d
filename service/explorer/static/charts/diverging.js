// Numbers of either sign as colours: helpful one way, harmful the other, nothing in between. With its scale.

import { h } from "../dom.js";
import { colour } from "../theme.js";
import { number, signed } from "../format.js";

/** A function from a number to [red, green, blue]; ±`most` are the ends. */
export function divergingColours(most) {
  const [zero, positive, negative] = ["--diverge-zero", "--helpful-strong", "--harmful-strong"].map(colour);
  return (value) => {
    const share = Math.min(1, Math.abs(value) / (most || 1)) ** 0.75; // small ones stay visible
    const end = value >= 0 ? positive : negative;
    return zero.map((part, index) => part + (end[index] - part) * share);
  };
}

/** A picture (height, width) of signed numbers. Over `under`, a function (x, y) -> grey 0 to 1, where one is given. */
export function heatMap({ values, width, height, most, label, under = null }) {
  const canvas = h("canvas", { class: "preview picture large", width, height, role: "img", "aria-label": label });
  paintHeat(canvas, { values, width, height, most, under });
  return canvas;
}

function paintHeat(canvas, { values, width, height, most, under }) {
  const colours = divergingColours(most);
  const context = canvas.getContext("2d");
  const data = context.createImageData(width, height);
  for (let index = 0; index < width * height; index += 1) {
    const tint = colours(values[index]);
    const grey = under === null ? null : 255 * under(index % width, Math.floor(index / width));
    const share = under === null ? 1 : 0.15 + 0.75 * Math.min(1, Math.abs(values[index]) / (most || 1)) ** 0.75;
    tint.forEach((part, channel) => {
      data.data[4 * index + channel] = grey === null ? part : grey * (1 - share) + part * share;
    });
    data.data[4 * index + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

/** The scale of such a picture, from −most to +most. */
export function colourScale(most, [low, high]) {
  return h(
    "div",
    { class: "colour-scale", role: "img", "aria-label": `Colours from ${signed(-most)} (${low}) over 0 to ${signed(most)} (${high})` },
    h("div", { class: "ramp" }),
    h("div", { class: "ramp-ends" }, h("span", {}, signed(-most), h("small", {}, low)), h("span", {}, "0"), h("span", {}, signed(most), h("small", {}, high))),
  );
}

/** Bars to either side of a middle line, one for each named number; `columns` are further numbers, {name, values}. */
export function divergingBars({ names, values, label, columns = [] }) {
  const most = Math.max(...Array.from(values, Math.abs), Number.MIN_VALUE);
  const rows = names.map((name, index) => {
    const share = `${(50 * Math.abs(values[index])) / most}%`;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      h("td", { class: "bar-cell" }, h("span", { class: `side-bar ${values[index] < 0 ? "harmful" : "helpful"}`, style: { "--share": share } })),
      h("td", { class: "number" }, signed(values[index])),
      columns.map((column) => h("td", { class: "number beside" }, number(column.values[index]))),
    );
  });
  const heading = (name, properties = {}) => h("th", { scope: "col", ...properties }, name);
  const head = h("thead", {}, h("tr", {}, heading("feature"), heading("influence", { colspan: 2 }), columns.map(({ name }) => heading(name, { class: "number" }))));
  return h("table", { class: "diverging-bars", "aria-label": label }, columns.length ? head : null, h("tbody", {}, rows));
}
