// A reader of the .spz that pages hold, version 3 with the axes of models: the values of the Python reader, in float32.

const HEADER = 16; // bytes: magic, version, number of Gaussians, SH degree, fractional bits, flags, reserved
const OTHERS = 20; // bytes of a Gaussian beside its harmonics: 9 for its mean, 1, 3, 3, and 4 for its rotation
const COLOR_SCALE = 0.15 * 255; // bytes for 1 of a coefficient of degree 0

/**
 * Read a model.
 *
 * @param {Uint8Array} packed the whole file
 * @returns {Promise<object>} the arrays of `decodeGsz`
 */
export async function decodeSpz(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const file = new Uint8Array(await new Response(stream).arrayBuffer());
  const view = new DataView(file.buffer);
  const num = view.getUint32(8, true), columns = (file[12] + 1) ** 2 - 1, step = 2 ** -file[13];
  if (view.getUint32(4, true) !== 3 || file.length < HEADER + num * (OTHERS + 3 * columns))
    throw new Error("the file is no .spz of version 3");
  let start = HEADER;
  const bytes = (each) => file.subarray(start, (start += each * num));
  const places = bytes(9);
  const means = Float32Array.from({ length: 3 * num }, (_, i) =>
    (((places[3 * i] << 8) | (places[3 * i + 1] << 16) | (places[3 * i + 2] << 24)) >> 8) * step);
  const opacityLogits = Float32Array.from(bytes(1), (each) => {
    const opacity = Math.min(Math.max(each, 0.25), 254.75) / 255;
    return Math.log(opacity / (1 - opacity));
  });
  const shDc = Float32Array.from(bytes(3), (each) => (each - 127.5) / COLOR_SCALE);
  const logScales = Float32Array.from(bytes(3), (each) => each / 16 - 10);
  const quats = new Float32Array(4 * num);
  for (let i = 0; i < num; i++) quats.set(rotation(view.getUint32(start + 4 * i, true)), 4 * i);
  start += 4 * num;
  const shRest = Float32Array.from(bytes(3 * columns), (each) => (each - 128) / 128);
  return { num, means, logScales, quats, opacityLogits, shDc, shRest };
}

/** The quaternion, real part first, of the index of its largest part in (x, y, z, w) and the three others. */
function rotation(word) {
  const parts = [20, 10, 0].map((shift) => {
    const field = (word >>> shift) & 1023;
    return ((field & 512 ? -1 : 1) * (field & 511) * Math.SQRT1_2) / 511;
  });
  parts.splice(word >>> 30, 0, Math.sqrt(Math.max(0, 1 - parts.reduce((sum, part) => sum + part * part, 0))));
  return [parts[3], parts[0], parts[1], parts[2]];
}
