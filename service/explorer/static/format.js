// Numbers, times and sizes as people read them.

/** Three or so digits, with a true minus sign. */
export function number(value, digits = 3) {
  return written(value, digits, 1);
}

/** As many digits always, so that columns of numbers stand in line. */
export function padded(value, digits = 3) {
  return written(value, digits, digits);
}

function written(value, most, least) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return power(value, most - 1).replaceAll("-", "−");
  const whole = Math.max(most, Math.ceil(Math.log10(size + 1)));
  return value.toLocaleString("en", { minimumSignificantDigits: least, maximumSignificantDigits: whole }).replace("-", "−");
}

function power(value, digits) {
  const [mantissa, exponent] = value.toExponential(digits).split("e");
  return `${Number(mantissa)}e${Number(exponent)}`;
}

/** With its sign, for influences. */
export function signed(value, digits = 3) {
  return value > 0 ? `+${padded(value, digits)}` : padded(value, digits);
}

export function count(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en");
}

export function percent(share) {
  return `${(100 * share).toLocaleString("en", { maximumFractionDigits: share < 0.1 ? 1 : 0 })} %`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.095) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  if (seconds < 5940) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.round(seconds / 86_400)} days`;
}

export function bytes(size) {
  if (size === null || size === undefined) return "–";
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (size >= 1024 && step < units.length - 1) {
    size /= 1024;
    step += 1;
  }
  return `${size < 10 && step ? size.toFixed(1) : Math.round(size)} ${units[step]}`;
}

/** How long ago, in the largest unit that fits. */
export function ago(time) {
  const seconds = Math.max(0, (Date.now() - new Date(time).getTime()) / 1000);
  if (seconds < 10) return "just now";
  return `${duration(seconds < 60 ? Math.round(seconds) : seconds).split(" ").slice(0, 2).join(" ")} ago`;
}

export function clock(time) {
  return time ? new Date(time).toLocaleString("en-GB") : "–";
}

export function plural(amount, one, many = `${one}s`) {
  return `${count(amount)} ${amount === 1 ? one : many}`;
}
