// From numbers to places on an axis, and the round numbers that are marked on it.

/** A linear scale: {at(value), ticks}. */
export function linear([low, high], [from, to], most = 6) {
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const at = (value) => from + ((value - low) / (high - low)) * (to - from);
  return { at, ticks: roundTicks(low, high, most), low, high };
}

/** A logarithmic scale; what is not positive lies on its lower end. */
export function logarithmic([low, high], [from, to], most = 6) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const end = last === first ? last + 1 : last;
  const at = (value) => from + ((Math.log10(Math.max(value, 10 ** first)) - first) / (end - first)) * (to - from);
  const step = Math.max(1, Math.ceil((end - first) / most));
  const ticks = [];
  for (let power = first; power <= end; power += step) ticks.push(10 ** power);
  return { at, ticks, low: 10 ** first, high: 10 ** end };
}

function roundTicks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const ticks = [];
  for (let index = Math.ceil(low / step); index * step <= high + step * 1e-9; index += 1) ticks.push(index * step);
  return ticks;
}

/** The smallest and largest of many numbers. */
export function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}
