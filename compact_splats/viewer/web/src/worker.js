// What the page does off its main thread: it decodes the model, and sorts splats. Messages are those of Spark's own
// worker, in whose place build.mjs puts this one: {id, name, args} comes in, {id, result} or {id, error} goes out.

import { decodeLevels } from "./gsz.js";
import { decodeSpz } from "./spz.js";

const INFINITE = 0x7f800000; // bits of a float32; above are NaN, and negative numbers
const RADIX = 1 << 16;

const decoders = { gsz: decodeLevels, spz: onlyLevel };
let parts, levels; // of the file that is being read

const calls = {
  /**
   * The next level of a model, a model of its own: see `decodeGsz`; and the number of Gaussians of all levels. `bytes` are those
   * of the file up to its end, without those of the levels before, which have `start` Gaussians.
   */
  async decode({ bytes, format, start }) {
    if (!start) levels = decoders[format]((parts = []));
    parts.push(bytes);
    const { value: { model, num } } = await levels.next();
    const total = model.num;
    const level = Object.fromEntries(Object.entries(model).filter(([, array]) => ArrayBuffer.isView(array)).map(([name, array]) => {
      const width = array.length / total;
      return [name, num - start < total ? array.slice(width * start, width * num) : array];
    }));
    return [{ level: { ...level, num: num - start }, total }, [...new Set(Object.values(level).map((array) => array.buffer))]];
  },

  /**
   * Write the order of splats from far to near into `ordering`, without those whose depth is negative or not finite.
   * Of equal depths the first comes first. `readback` has the bits of the depths, float32.
   */
  async sortSplats32({ numSplats, readback, ordering }) {
    const activeSplats = sortFarToNear(readback.subarray(0, numSplats), ordering);
    return [{ activeSplats, readback, ordering }, [readback.buffer, ordering.buffer]];
  },
};

async function* onlyLevel(parts) {
  const model = await decodeSpz(parts[0]);
  yield { model, num: model.num };
}

/** A radix sort in two passes of 16 bits; the number of splats in the order. */
function sortFarToNear(depths, ordering) {
  const low = new Uint32Array(RADIX + 1), high = new Uint32Array(RADIX + 1); // where the splats of a digit start
  let count = 0;
  for (const depth of depths) {
    if (depth >= INFINITE) continue;
    count++;
    low[RADIX - (depth & 0xffff)]++;
    high[RADIX - (depth >>> 16)]++;
  }
  for (let i = 0; i < RADIX; i++) {
    low[i + 1] += low[i];
    high[i + 1] += high[i];
  }
  const byLow = new Uint32Array(count);
  for (let i = 0; i < depths.length; i++)
    if (depths[i] < INFINITE) byLow[low[RADIX - 1 - (depths[i] & 0xffff)]++] = i;
  for (const i of byLow) ordering[high[RADIX - 1 - (depths[i] >>> 16)]++] = i;
  return count;
}

self.onmessage = async ({ data: { id, name, args } }) => {
  if (id === undefined) return; // Spark's first message, for its WebAssembly
  try {
    const [result, transfer] = await calls[name](args);
    self.postMessage({ id, result }, { transfer });
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
};
