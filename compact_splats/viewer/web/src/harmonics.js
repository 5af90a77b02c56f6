// Spherical harmonics of the model as Spark's shader reads them: a word for the three channels of a coefficient, with
// 8 bits each and a common power of two. Spark 2.2 itself takes half of the power that is needed, which cuts off the
// largest of the three; so its words are written anew here, from the file.

const HEADER = 16; // bytes of an .spz; a Gaussian's other values take 9 for its place, 1, 3, 3, and 4 for its rotation
const OTHERS = 20;
const ARRAYS = ["sh1", "sh2", "sh3a", "sh3b"]; // of Spark, four words a Gaussian each

/**
 * Replace Spark's words by exact ones.
 *
 * @param {Record<string, Uint32Array>} words Spark's arrays by their names; those of degrees that are not there are missing
 * @param {Uint8Array} packed the .spz file, version 3
 */
export async function writeHarmonics(words, packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const file = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = new DataView(file.buffer).getUint32(8, true);
  const coefficients = (file.length - HEADER - OTHERS * count) / (3 * count);
  let from = HEADER + OTHERS * count;
  for (let i = 0; i < count; i++)
    for (let k = 0; k < coefficients; k++, from += 3)
      words[ARRAYS[k >> 2]][4 * i + (k & 3)] = word(file[from] - 128, file[from + 1] - 128, file[from + 2] - 128);
}

/** The word of three numbers in units of 1/128. */
function word(red, green, blue) {
  const most = Math.max(Math.abs(red), Math.abs(green), Math.abs(blue));
  if (!most) return 0;
  const power = 25 - Math.clz32(most - 1); // the smallest that holds all three: log2(most / 128), rounded up
  const scale = 255 / 128 / 2 ** power;
  const size = (value) => Math.round(Math.abs(value) * scale);
  const signs = (red < 0 ? 1 : 0) | (green < 0 ? 2 : 0) | (blue < 0 ? 4 : 0);
  return (size(red) | (size(green) << 8) | (size(blue) << 16) | (signs << 24) | ((power + 15) << 27)) >>> 0;
}
