// A row as a picture, drawn from its numbers.

import { h } from "../dom.js";

/** Pixels of a row: {width, height, channels, at(channel, y, x)} in the column's own numbers. */
export function pixels(values, preview) {
  const shape = preview.shape ?? preview.spec.shape;
  if (shape.length === 2) {
    const [height, width] = shape;
    return { width, height, channels: 1, at: (_, y, x) => values[y * width + x] };
  }
  if ([1, 3, 4].includes(shape[0]) || ![1, 3, 4].includes(shape[2])) {
    const [channels, height, width] = shape;
    return { width, height, channels, at: (channel, y, x) => values[(channel * height + y) * width + x] };
  }
  const [height, width, channels] = shape;
  return { width, height, channels, at: (channel, y, x) => values[(y * width + x) * channels + channel] };
}

/** A canvas of the picture, one pixel a pixel; the style sheet enlarges it. Without a label it is not announced. */
export function image(values, preview, { large = false, label = "" } = {}) {
  const picture = pixels(values, preview);
  const said = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  const canvas = h("canvas", { class: `preview picture${large ? " large" : ""}`, width: picture.width, height: picture.height, ...said });
  paint(canvas, picture, preview);
  return canvas;
}

function paint(canvas, { width, height, channels, at }, { minimum = 0, maximum = 1 }) {
  const context = canvas.getContext("2d");
  const data = context.createImageData(width, height);
  const scale = 255 / (maximum - minimum || 1);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const place = 4 * (y * width + x);
      for (let colour = 0; colour < 3; colour += 1) {
        data.data[place + colour] = (at(channels >= 3 ? colour : 0, y, x) - minimum) * scale;
      }
      data.data[place + 3] = 255;
    }
  }
  context.putImageData(data, 0, 0);
}
