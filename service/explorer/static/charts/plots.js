// The plots of the page: points, bars of a histogram, a course, stems.

import { svg } from "../dom.js";
import { number } from "../format.js";
import { line, plot, room, text } from "./frame.js";
import { extent, linear, logarithmic } from "./scales.js";

const MOST_POINTS = 2000;
const BINS = 24;
const FEW = 8; // whole numbers that fill a histogram's width

/** One point for each number, over its position; logarithmic. `marked(index)` points are drawn as failed. */
export function points({ title, summary, values, xName, yName, marked = () => false, threshold = null }) {
  const area = room();
  const positive = Array.from(values).filter((value) => value > 0);
  const [low, high] = positive.length ? extent(positive) : [1e-8, 1];
  const x = linear([0, Math.max(1, values.length - 1)], area.x);
  const y = logarithmic([Math.min(low, threshold ?? low), Math.max(high, threshold ?? high)], area.y);
  const marks = kept(values, marked).map((index) =>
    svg("circle", { cx: x.at(index), cy: y.at(values[index]), r: 2.6, class: marked(index) ? "mark bad" : "mark" }, svg("title", {}, `${index}: ${number(values[index])}`)));
  if (threshold !== null) marks.push(line(area.x[0], y.at(threshold), area.x[1], y.at(threshold), "threshold"));
  return plot({ title, summary, area, x: { scale: x, name: xName }, y: { scale: y, name: yName }, marks });
}

/** Which of many points are drawn: every marked one, and of the others at even distances. */
function kept(values, marked) {
  const step = Math.ceil(values.length / MOST_POINTS);
  return Array.from({ length: values.length }, (_, index) => index).filter((index) => Number.isFinite(values[index]) && (index % step === 0 || marked(index)));
}

/** How often numbers fall where. */
export function histogram({ title, summary, values, xName, yName = "how many" }) {
  const area = room();
  const [low, high] = extent(values);
  const whole = Array.from(values).every(Number.isInteger);
  const bins = whole ? Math.min(BINS, high - low + 1) : BINS;
  const width = whole ? Math.ceil((high - low + 1) / bins) : (high - low || 1) / bins;
  const counts = new Array(Math.ceil(bins)).fill(0);
  for (const value of values) counts[Math.min(counts.length - 1, Math.floor((value - low) / width))] += 1;
  const half = whole ? 0.5 : 0; // a whole number stands in the middle of its bar
  const margin = whole ? Math.max(0, FEW - counts.length * width) / 2 : 0;
  const from = low < 0 ? low - half - margin : Math.max(-half, low - half - margin);
  const x = linear([from, low + width * counts.length - half + margin], area.x);
  const y = linear([0, Math.max(...counts)], area.y, 4);
  const marks = counts.map((count, index) => {
    const first = low + index * width;
    const label = whole && width === 1 ? number(first) : `${number(first)} to ${number(first + width - (whole ? 1 : 0))}`;
    return svg("rect", { x: x.at(first - half) + 1, width: Math.max(1, x.at(first + width) - x.at(first) - 2), y: y.at(count), height: area.y[0] - y.at(count), class: "bar" }, svg("title", {}, `${label}: ${count}`));
  });
  return plot({ title, summary, area, x: { scale: x, name: xName }, y: { scale: y, name: yName }, marks });
}

/** A line through numbers at their steps; both axes logarithmic. */
export function course({ title, summary, steps, values, xName, yName }) {
  const area = room();
  const positive = values.filter((value) => value > 0);
  const x = logarithmic([1, Math.max(2, steps.at(-1))], area.x);
  const y = logarithmic(positive.length ? extent(positive) : [1e-8, 1], area.y);
  const places = steps.map((step, index) => [x.at(step), y.at(values[index])]);
  const marks = [
    svg("polyline", { points: places.map((place) => place.join(",")).join(" "), class: "course" }),
    places.map(([cx, cy], index) => svg("circle", { cx, cy, r: 2.6, class: "mark" }, svg("title", {}, `${steps[index]}: ${number(values[index], 4)}`))),
  ];
  return plot({ title, summary, area, x: { scale: x, name: xName }, y: { scale: y, name: yName }, marks });
}

/** Several courses over their own steps, linear: `series` are {name, steps, values, kind}. */
export function lines({ title, summary, series, xName, yName }) {
  const area = room();
  const every = series.flatMap(({ values }) => values.filter(Number.isFinite));
  const x = linear([0, Math.max(1, ...series.flatMap(({ steps }) => steps))], area.x);
  const y = linear(every.length ? [Math.min(0, ...every), Math.max(...every)] : [0, 1], area.y);
  const marks = series.map(({ name, steps, values, kind = "" }, index) => {
    const places = steps.map((step, at) => [step, values[at]]).filter(([, value]) => Number.isFinite(value)).map(([step, value]) => [x.at(step), y.at(value)]);
    return [
      svg("polyline", { points: places.map((place) => place.join(",")).join(" "), class: `course ${kind}` }),
      places.length === 1 ? svg("circle", { cx: places[0][0], cy: places[0][1], r: 3, class: "mark" }) : null,
      text(area.x[1], area.y[1] + 6 + 16 * index, name, `tick end halo ${kind}`),
    ];
  });
  return plot({ title, summary, area, x: { scale: x, name: xName }, y: { scale: y, name: yName }, marks });
}

/** Correlations, at most 1, over places on a logarithmic axis, or a linear one where a place is 0. */
export function correlation({ title, summary, places, values, xName, yName }) {
  const area = room();
  const x = places[0] > 0 ? logarithmic(extent(places), area.x) : linear(extent(places), area.x);
  const y = linear([Math.min(...values, 0.9), 1], area.y);
  const points = places.map((place, index) => [x.at(place), y.at(values[index])]);
  const marks = [
    svg("polyline", { points: points.map((each) => each.join(",")).join(" "), class: "course" }),
    points.map(([cx, cy], index) => svg("circle", { cx, cy, r: 3, class: "mark" }, svg("title", {}, `${number(places[index])}: ${number(values[index], 4)}`))),
  ];
  return plot({ title, summary, area, x: { scale: x, name: xName }, y: { scale: y, name: yName }, marks });
}

/** A stem for each eigenvalue, in order; λ as a line. On a logarithmic axis of sizes, negative ones marked, and
 *  those below `floor`, which rounding can't tell from 0. */
export function spectrum({ title, summary, values, damping, floor = 0, xName }) {
  const area = room();
  const sizes = Array.from(values, Math.abs).filter((value) => value > 0);
  const [low, high] = extent(damping > 0 ? [...sizes, damping] : sizes);
  const y = logarithmic([Math.max(low, floor / 10), high], area.y);
  const x = linear([0, Math.max(1, values.length - 1)], [area.x[0] + 8, area.x[1] - 8]);
  const step = Math.ceil(values.length / MOST_POINTS);
  const marks = Array.from(values).flatMap((value, index) => {
    if (index % step) return [];
    const kind = Math.abs(value) < floor ? "faint" : value < 0 ? "bad" : "";
    const place = [x.at(index), y.at(Math.abs(value))];
    return [
      values.length <= 200 ? line(place[0], area.y[0], place[0], place[1], `stem ${kind}`) : null,
      svg("circle", { cx: place[0], cy: place[1], r: values.length <= 200 ? 3 : 1.6, class: `mark ${kind}` }, svg("title", {}, `${index}: ${number(value, 4)}`)),
    ];
  });
  if (damping > 0) {
    marks.push(line(area.x[0], y.at(damping), area.x[1], y.at(damping), "threshold"));
    marks.push(text(area.x[1], y.at(damping) - 5, `λ = ${number(damping)}`, "tick end halo"));
  }
  return plot({ title, summary, area, x: { scale: x, name: xName }, y: { scale: y, name: "size, logarithmic" }, marks });
}
