// NumPy's npy format, as the service sends it: version 1, little-endian, C order.

const READERS = {
  "<f4": Float32Array, "<f8": Float64Array,
  "|u1": Uint8Array, "|i1": Int8Array, "|b1": Uint8Array,
  "<i2": Int16Array, "<u2": Uint16Array, "<i4": Int32Array, "<u4": Uint32Array,
  "<i8": BigInt64Array, "<u8": BigUint64Array,
};

/** {shape, values}: values is a flat typed array of plain numbers, row by row. */
export function parseNpy(buffer) {
  const view = new DataView(buffer);
  const length = view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, 10, length));
  const kind = /'descr':\s*'([^']+)'/.exec(header)[1];
  const shape = [.../'shape':\s*\(([^)]*)\)/.exec(header)[1].matchAll(/\d+/g)].map((match) => Number(match[0]));
  const data = buffer.slice(10 + length);
  if (kind === "<f2") return { shape, values: halves(new Uint16Array(data)) };
  const values = new READERS[kind](data);
  return { shape, values: kind.endsWith("8") && kind[1] !== "f" ? Float64Array.from(values, Number) : values };
}

function halves(bits) {
  return Float32Array.from(bits, (each) => {
    const sign = each & 0x8000 ? -1 : 1;
    const exponent = (each >> 10) & 31;
    const fraction = each & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

/** The numbers of one entry of the first axis. */
export function row({ shape, values }, index) {
  const size = shape.slice(1).reduce((product, length) => product * length, 1);
  return values.subarray(index * size, (index + 1) * size);
}
