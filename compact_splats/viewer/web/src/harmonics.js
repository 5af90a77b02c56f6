// Spherical harmonics of the model as Spark's shader reads them: a word for the three channels of a coefficient, with
// 8 bits each and a common power of two. Spark 2.2 itself takes half of the power that is needed, which cuts off the
// largest of the three; so its words are written here.

const ARRAYS = ["sh1", "sh2", "sh3a", "sh3b"]; // of Spark, four words a Gaussian each

/**
 * Spark's words of a model.
 *
 * @param {Float32Array} coefficients red, green and blue of each coefficient of degrees 1 to 3, Gaussian by Gaussian
 * @param {number} count of Gaussians
 * @returns {Record<string, Uint32Array>} Spark's arrays by their names; none without coefficients
 */
export function packHarmonics(coefficients, count) {
  const arrays = Math.ceil(coefficients.length / 3 / 4 / count || 0);
  const words = Object.fromEntries(ARRAYS.slice(0, arrays).map((name) => [name, new Uint32Array(4 * count)]));
  const columns = coefficients.length / 3 / count;
  for (let i = 0, from = 0; i < count; i++)
    for (let k = 0; k < columns; k++, from += 3)
      words[ARRAYS[k >> 2]][4 * i + (k & 3)] = word(...coefficients.subarray(from, from + 3));
  return words;
}

/** The word of three numbers. */
function word(red, green, blue) {
  const most = Math.max(Math.abs(red), Math.abs(green), Math.abs(blue));
  if (most < 2 ** -24) return 0; // below what a word can hold
  const power = Math.min(Math.max(Math.ceil(Math.log2(most)), -15), 16); // the smallest that holds all three
  const scale = 255 / 2 ** power;
  const size = (value) => Math.min(Math.round(Math.abs(value) * scale), 255);
  const signs = (red < 0 ? 1 : 0) | (green < 0 ? 2 : 0) | (blue < 0 ? 4 : 0);
  return (size(red) | (size(green) << 8) | (size(blue) << 16) | (signs << 24) | ((power + 15) << 27)) >>> 0;
}
