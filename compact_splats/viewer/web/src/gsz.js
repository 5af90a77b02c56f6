// A reader of .gsz, as docs/gsz.md specifies it: the same bits as the Python reader, and no library beside the browser's
// own. Integers, and IEEE additions, multiplications, divisions and roots only, so that all machines decode the same.

const MAGIC = [0x89, 0x47, 0x53, 0x5a, 0x0d, 0x0a, 0x1a, 0x0a];
const HEAD = 28; // bytes before the header
const MAX_GAUSSIANS = 2 ** 27;
const SH_REST_COUNTS = [0, 3, 8, 15];

/** Bytes that are no .gsz file, or a damaged one, or one of a newer version. */
export class GszError extends Error {}

function check(isTrue, message) {
  if (!isTrue) throw new GszError(message);
}

/**
 * Read a model. All arrays are Float32Array, one Gaussian after the other, in the order of the file.
 *
 * @param {Uint8Array | ArrayBuffer} bytes the whole file
 * @returns {Promise<{num: number, means: Float32Array, logScales: Float32Array, quats: Float32Array,
 *   opacityLogits: Float32Array, shDc: Float32Array, shRest: Float32Array, antialiased: boolean,
 *   offset: number[] | null, levels: number[]}>} before activation, as in a 3DGS PLY: `means` 3 each; `logScales` 3, natural
 *   log; `quats` 4, the real part first; `opacityLogits` 1; `shDc` 3; `shRest` 3 K: red, green, blue of coefficient 1, then of
 *   the next. With `antialiased` the model is for the anti-aliased rasterizer; `offset` is what was subtracted from coordinates;
 *   `levels` are the numbers of Gaussians with which the levels of a nested model end, else `num` alone.
 * @throws {GszError} says what is wrong
 */
export async function decodeGsz(bytes) {
  const file = new GszFile([bytes instanceof ArrayBuffer ? new Uint8Array(bytes) : bytes]);
  await file.readHead();
  await file.readAll(); // before memory is taken for the Gaussians that it names
  let whole = null;
  for await (const { model } of levelsOf(file)) whole = model;
  return whole;
}

/**
 * Read a nested model while its file arrives; another model as its only level.
 *
 * @param {ReadableStream<Uint8Array> | Iterable<Uint8Array> | AsyncIterable<Uint8Array>} parts of the file, of any size, such
 *   as the body of a response
 * @yields {{model: object, num: number}} after each level: the result of `decodeGsz`, always the same one, of which the first
 *   `num` Gaussians are there
 * @throws {GszError} says what is wrong
 */
export async function* decodeLevels(parts) {
  const file = new GszFile(parts);
  await file.readHead();
  yield* levelsOf(file);
}

async function* levelsOf(file) {
  const { profile, antialiased, offset = null } = file.header;
  check(profile === "compact" || profile === "seed", "the file has an unknown profile");
  check(offset === null || isList(offset, 3, (each) => Math.abs(each) < 1e39), "the offset is no list of 3 numbers");
  const marks = { antialiased: antialiased === true, offset };
  let model = null;
  for await (const level of (profile === "seed" ? readSeed : readCompact)(file)) {
    model ??= { ...level.model, ...marks };
    yield { model, num: level.num };
  }
}

// ---- the container ----

/** A file that arrives in parts: its header and its streams. */
class GszFile {
  constructor(parts) {
    const source = parts.getReader?.() ?? (parts[Symbol.asyncIterator] ?? parts[Symbol.iterator]).call(parts);
    this.nextPart = () => (source.read ? source.read() : source.next());
    this.bytes = new Uint8Array(0);
    this.entries = new Map(); // of the streams by name: where they start, how large they are, their checksums
    this.streams = new Map();
  }

  /** Wait for the first `size` bytes; false: there are fewer in the file. */
  async #has(size) {
    const parts = this.bytes.length ? [this.bytes] : [];
    let length = this.bytes.length;
    while (length < size) {
      const { value, done } = await this.nextPart();
      if (done) break;
      parts.push(value);
      length += value.length;
    }
    if (parts.length === 1) [this.bytes] = parts;
    if (parts.length > 1) {
      this.bytes = new Uint8Array(length);
      parts.reduce((at, part) => (this.bytes.set(part, at), at + part.length), 0);
    }
    return length >= size;
  }

  /** Read the header, and the table of streams. */
  async readHead() {
    const isLong = await this.#has(HEAD);
    check(MAGIC.every((byte, i) => this.bytes[i] === byte), "the file is no .gsz");
    check(isLong, "the file was cut off");
    const numbers = new DataView(this.bytes.buffer, this.bytes.byteOffset);
    const [version, textSize, tableSize, count, checksum] = [8, 12, 16, 20, 24].map((at) => numbers.getUint32(at, true));
    check(1 <= version && version <= 3, `the file has version ${version} of .gsz; this reader knows 1 to 3`);
    check(textSize <= 2 ** 20 && count <= 2 ** 12 && tableSize <= 77 * count, "the sizes of the header are out of range");
    const tableStart = HEAD + textSize;
    const end = tableStart + tableSize;
    check(await this.#has(end), "the file was cut off");
    const head = new Uint8Array(this.bytes.subarray(0, end)).fill(0, 24, HEAD);
    check(crc32(head) === checksum, "the header has a wrong checksum: the file is damaged");
    this.header = { ...parseHeader(head.subarray(HEAD, tableStart)), version };
    const view = new DataView(head.buffer);
    let at = tableStart, start = end;
    for (let i = 0; i < count; i++) {
      const nameEnd = at + 1 + head[at];
      const name = String.fromCharCode(...head.subarray(at + 1, nameEnd));
      const isNamed = /^[\0-\x7f]{1,64}$/.test(name) && !this.entries.has(name);
      check(nameEnd + 12 <= end && isNamed, "the table of streams is damaged");
      const size = view.getUint32(nameEnd, true) + 2 ** 32 * view.getUint32(nameEnd + 4, true);
      this.entries.set(name, { start, size, checksum: view.getUint32(nameEnd + 8, true) });
      at = nameEnd + 12;
      start += size;
    }
    check(at === end, "the table of streams is damaged");
    this.size = start;
    this.sizeOfStreams = start - end;
  }

  checkNames(names) {
    check(this.entries.size === names.length && names.every((name) => this.entries.has(name)), "streams are missing or unknown");
  }

  /** Wait for streams, which `streams` has then. */
  async read(names) {
    for (const name of names) {
      if (this.streams.has(name)) continue;
      const { start, size, checksum } = this.entries.get(name);
      check(await this.#has(start + size), "the file was cut off");
      const stream = this.bytes.subarray(start, start + size);
      check(crc32(stream) === checksum, `stream ${name} has a wrong checksum: the file is damaged`);
      this.streams.set(name, stream);
    }
  }

  /** Wait for the whole file. */
  async readAll() {
    await this.read(this.entries.keys());
    check(!(await this.#has(this.size + 1)) && this.bytes.length === this.size, "the file does not end where its last stream ends");
  }
}

function parseHeader(text) {
  let header = null;
  try {
    const finite = (_, value) => (typeof value === "number" && !Number.isFinite(value) ? check(false, "") : value);
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(text), finite);
  } catch {
    // not an object either
  }
  check(typeof header === "object" && header !== null && !Array.isArray(header), "the header is no JSON object");
  return header;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

function isNumber(value, low, high = 1e30) {
  return typeof value === "number" && low <= value && value <= high;
}

function isList(values, length, isItem) {
  return Array.isArray(values) && values.length === length && values.every((each) => typeof each === "number" && isItem(each));
}

function integer(header, key, low, high) {
  check(Number.isInteger(header[key]) && isNumber(header[key], low, high), `${key} in the header is not from ${low} to ${high}`);
  return header[key];
}

// ---- LZMA2  [LZMA SDK, lzma-specification.txt] ----

const LENGTHS = 2 + 2 * 128 + 256; // probabilities of a coder of lengths
// Where the probabilities of each kind start.
const [IS_MATCH, IS_REP, IS_REP0, IS_REP1, IS_REP2, IS_LONG, SLOTS, DISTANCES, ALIGN, MATCH_LENGTHS, REP_LENGTHS, LITERALS] =
  [192, 12, 12, 12, 12, 192, 256, 115, 16, LENGTHS, LENGTHS, 0].map(((start) => (size) => (start += size) - size)(0));

/** The `size` bytes of a raw LZMA2 stream. */
function unpackLzma(data, size) {
  const damaged = "LZMA data is damaged";
  let out = new Uint8Array(Math.min(size, 2 ** 16)), length = 0, dictionaryStart = 0, at = 0;
  let probabilities = null, mayContinue = false, lc = 0, lpMask = 0, pbMask = 0;
  let state = 0, rep0 = 0, rep1 = 0, rep2 = 0, rep3 = 0; // distances less 1
  let range = 0, code = 0;

  function byte() {
    check(at < data.length, damaged);
    return data[at++];
  }
  const twoBytes = () => 256 * byte() + byte();

  function normalize() {
    if (range >= 2 ** 24) return;
    range *= 256;
    code = code * 256 + byte();
  }

  function bit(index) {
    const probability = probabilities[index];
    const bound = (range >>> 11) * probability;
    const isOne = code >= bound;
    if (isOne) {
      code -= bound;
      range -= bound;
      probabilities[index] = probability - (probability >> 5);
    } else {
      range = bound;
      probabilities[index] = probability + ((2048 - probability) >> 5);
    }
    normalize();
    return isOne ? 1 : 0;
  }

  function tree(start, bits) {
    let node = 1;
    for (let i = 0; i < bits; i++) node = 2 * node + bit(start + node);
    return node - (1 << bits);
  }

  function reverseTree(start, bits) {
    let node = 1, value = 0;
    for (let i = 0; i < bits; i++) {
      const next = bit(start + node);
      node = 2 * node + next;
      value += next << i;
    }
    return value;
  }

  function directBits(bits) {
    let value = 0;
    for (let i = 0; i < bits; i++) {
      range >>>= 1;
      const isOne = code >= range;
      if (isOne) code -= range;
      value = 2 * value + (isOne ? 1 : 0);
      normalize();
    }
    return value;
  }

  function literal(position) {
    const before = position ? out[length - 1] : 0;
    const start = LITERALS + 0x300 * (((position & lpMask) << lc) + (before >> (8 - lc)));
    let node = 1;
    if (state >= 7) {
      let match = out[length - rep0 - 1];
      for (let isSame = true; isSame && node < 256; match <<= 1) {
        const expected = (match >> 7) & 1;
        const next = bit(start + ((1 + expected) << 8) + node);
        node = 2 * node + next;
        isSame = next === expected;
      }
    }
    while (node < 256) node = 2 * node + bit(start + node);
    out[length++] = node;
    state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
  }

  function lengthOf(start, posState) {
    if (!bit(start)) return 2 + tree(start + 2 + 8 * posState, 3);
    if (!bit(start + 1)) return 10 + tree(start + 130 + 8 * posState, 3);
    return 18 + tree(start + 258, 8);
  }

  function distance(matchLength) {
    const slot = tree(SLOTS + 64 * Math.min(matchLength - 2, 3), 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1;
    const high = (2 + (slot & 1)) * 2 ** bits;
    if (slot < 14) return high + reverseTree(DISTANCES + high - slot, bits);
    return high + 16 * directBits(bits - 4) + reverseTree(ALIGN, 4);
  }

  /** The length of the next match, whose distance becomes `rep0`. */
  function match(posState) {
    const context = 16 * state + posState;
    if (!bit(IS_REP + state)) {
      [rep1, rep2, rep3] = [rep0, rep1, rep2];
      const matchLength = lengthOf(MATCH_LENGTHS, posState);
      rep0 = distance(matchLength);
      state = state < 7 ? 7 : 10;
      return matchLength;
    }
    if (!bit(IS_REP0 + state)) {
      if (!bit(IS_LONG + context)) {
        state = state < 7 ? 9 : 11;
        return 1;
      }
    } else if (!bit(IS_REP1 + state)) [rep0, rep1] = [rep1, rep0];
    else if (!bit(IS_REP2 + state)) [rep0, rep1, rep2] = [rep2, rep0, rep1];
    else [rep0, rep1, rep2, rep3] = [rep3, rep0, rep1, rep2];
    const matchLength = lengthOf(REP_LENGTHS, posState);
    state = state < 7 ? 8 : 11;
    return matchLength;
  }

  function packedChunk(end, packedEnd) {
    check(byte() === 0, damaged);
    range = 2 ** 32 - 1;
    code = 2 ** 16 * twoBytes() + twoBytes();
    check(code < range, damaged);
    while (length < end) {
      const position = length - dictionaryStart;
      const posState = position & pbMask;
      if (!bit(IS_MATCH + 16 * state + posState)) literal(position);
      else {
        const matchEnd = length + match(posState);
        check(rep0 < position && matchEnd <= end, damaged);
        for (; length < matchEnd; length++) out[length] = out[length - rep0 - 1];
      }
    }
    check(at === packedEnd && code === 0, damaged);
  }

  function readProperties() {
    const properties = byte();
    lc = properties % 9;
    const lp = Math.floor(properties / 9) % 5;
    check(properties < 225 && lc + lp <= 4, damaged);
    lpMask = (1 << lp) - 1;
    pbMask = (1 << Math.floor(properties / 45)) - 1;
    probabilities = new Uint16Array(LITERALS + (0x300 << (lc + lp)));
  }

  for (let control = byte(); control; control = byte()) {
    const isPacked = control >= 0x80;
    const isNew = control === 1 || control >= 0xe0; // resets the dictionary
    check(isPacked || control <= 2, damaged);
    check(isNew || mayContinue, damaged);
    if (isNew) {
      dictionaryStart = length;
      probabilities = null;
      mayContinue = true;
    }
    const end = length + 1 + twoBytes() + (isPacked ? (control & 31) << 16 : 0);
    check(end <= size, "LZMA data has more bytes than expected");
    if (end > out.length) {
      const larger = new Uint8Array(Math.min(size, Math.max(end, 2 * out.length)));
      larger.set(out);
      out = larger;
    }
    if (isPacked) {
      const packedSize = 1 + twoBytes();
      if (control >= 0xc0) readProperties();
      check(probabilities, damaged);
      if (control >= 0xa0) {
        probabilities.fill(1024);
        state = rep0 = rep1 = rep2 = rep3 = 0;
      }
      packedChunk(end, at + packedSize);
    } else {
      const content = data.subarray(at, at + end - length);
      check(content.length === end - length, damaged);
      out.set(content, length);
      at += content.length;
      length = end;
    }
  }
  check(length === size && at === data.length, "LZMA data has another size than expected");
  return out;
}

// ---- numbers ----

/** Every third bit of a number below 2^24, from the lowest on. */
function everyThirdBit(bits) {
  bits &= 0x249249;
  bits = (bits | (bits >> 2)) & 0x0c30c3;
  bits = (bits | (bits >> 4)) & 0x00f00f;
  return (bits | (bits >> 8)) & 0xff;
}

/** The integer of an axis (0 to 2) in a Morton code below 2^48. */
function cellOf(place, axis) {
  const low = place % 2 ** 24, high = (place - low) / 2 ** 24;
  return everyThirdBit(low >> axis) | (everyThirdBit(high >> axis) << 8);
}

/** Nearest integer, of two the even one, of a number within 2^51. */
function rounded(value) {
  return value + 1.5 * 2 ** 52 - 1.5 * 2 ** 52;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/** Undo the folding of space into a grid of 2^bits cells an axis: in units of the spread, from the centre. */
function unfolded(place, bits) {
  const half = 2 ** (bits - 1);
  const grid = (place - half) / half;
  return grid / (1 - Math.abs(grid));
}

// ---- profile "seed" ----

async function* readSeed(file) {
  const { header, streams } = file;
  const num = integer(header, "gaussians", 0, MAX_GAUSSIANS);
  const rest = header.sh_rest;
  check(SH_REST_COUNTS.includes(rest), "sh_rest in the header is not 0, 3, 8 or 15");
  const halves = { log_scales: 3, quats: 4, opacity_logits: 1 };
  const sizes = { means: 6 * num };
  for (const [name, columns] of Object.entries(halves)) sizes[`${name}.high`] = sizes[`${name}.low`] = columns * num;
  for (const channel of "grb") {
    sizes[`sh_dc.${channel}`] = num;
    sizes[`sh_rest.${channel}`] = rest * num;
  }
  sizes.sh_ranges = 24 * (1 + rest);
  file.checkNames(Object.keys(sizes));
  await file.readAll();
  const contents = {};
  for (const [name, size] of Object.entries(sizes)) {
    contents[name] = unpackLzma(streams.get(name), size);
    await breath();
  }
  const [logScales, quats, opacityLogits] = Object.entries(halves).map(([name, columns]) =>
    fromHalves(contents[`${name}.high`], contents[`${name}.low`], num, columns));
  const view = new DataView(contents.sh_ranges.buffer);
  const ranges = Float64Array.from({ length: 6 * (1 + rest) }, (_, i) => view.getFloat32(4 * i, true));
  check(ranges.every(Number.isFinite), "a range of SH coefficients is not finite");
  const tables = Array.from({ length: 3 * (1 + rest) }, (_, i) => {
    const low = ranges[i], high = ranges[i + 3 * (1 + rest)];
    return Float32Array.from({ length: 256 }, (_, level) => (low * (255 - level) + high * level) / 255);
  });
  const model = {
    num, levels: [num], means: seedMeans(contents.means, num), logScales, quats, opacityLogits,
    shDc: fromLevels(contents, "sh_dc", tables.slice(0, 3), num),
    shRest: fromLevels(contents, "sh_rest", tables.slice(3), num),
  };
  yield { model, num };
}

function seedMeans(content, num) {
  const means = new Float32Array(3 * num);
  for (let i = 0, place = 0; i < num; i++) {
    for (let byte = 0; byte < 6; byte++) place += content[byte * num + i] * 2 ** (8 * byte);
    check(place < 2 ** 48, "a position lies behind the end of the curve");
    for (let axis = 0; axis < 3; axis++) {
      const ordered = cellOf(place, axis);
      means[3 * i + axis] = half(ordered >= 0x8000 ? ordered & 0x7fff : ~ordered & 0xffff);
    }
  }
  return means;
}

/** Columns of high and of low bytes of 16-bit floats, as rows. */
function fromHalves(high, low, num, columns) {
  const values = new Float32Array(columns * num);
  for (let column = 0, from = 0; column < columns; column++)
    for (let i = 0; i < num; i++, from++) values[columns * i + column] = half((high[from] << 8) | low[from]);
  return values;
}

/** The value of the bits of a 16-bit float. */
function half(bits) {
  const exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  check(exponent < 31, "a value is not finite");
  const size = exponent ? (1024 + mantissa) * 2 ** (exponent - 25) : mantissa * 2 ** -24;
  return bits & 0x8000 ? -size : size;
}

function fromLevels(contents, name, tables, num) {
  const [green, red, blue] = ["g", "r", "b"].map((channel) => contents[`${name}.${channel}`]);
  const columns = tables.length / 3, values = new Float32Array(tables.length * num);
  for (let i = 0, column = 0, to = 0; i < green.length; i++, column = (column + 1) % columns) {
    const shift = green[i] - 128;
    values[to++] = tables[3 * column][(red[i] + shift) & 255];
    values[to++] = tables[3 * column + 1][green[i]];
    values[to++] = tables[3 * column + 2][(blue[i] + shift) & 255];
  }
  return values;
}

// ---- profile "compact": bits and symbols ----

/** The numbers of bits packed without gaps, the narrowest first; `widths` are their bits, at most 48. */
function unpackBits(data, widths) {
  const starts = new Float64Array(50);
  for (const width of widths) starts[width + 1] += width;
  for (let width = 1; width < 50; width++) starts[width] += starts[width - 1];
  check(data.length === Math.ceil(starts[49] / 8), "a stream of bits has another size than expected");
  return Float64Array.from(widths, (width) => {
    let value = 0;
    for (let got = 0, at = starts[width]; got < width; ) {
      const taken = Math.min(8 - (at & 7), width - got);
      value += ((data[at >> 3] >> (at & 7)) & ((1 << taken) - 1)) * 2 ** got;
      got += taken;
      at += taken;
    }
    starts[width] += width;
    return value;
  });
}

/** Contexts 0 to 255: how often each occurs, and the stable order of the symbols by their contexts. */
class Contexts {
  constructor(numbers) {
    this.counts = new Uint32Array(256);
    for (const number of numbers) this.counts[number]++;
    const starts = new Uint32Array(256);
    for (let i = 1; i < 256; i++) starts[i] = starts[i - 1] + this.counts[i - 1];
    this.order = new Uint32Array(numbers.length);
    for (let i = 0; i < numbers.length; i++) this.order[starts[numbers[i]]++] = i;
  }

  /** How often each context, shortened by some bits, occurs, without those that do not. */
  runs(shift) {
    const sizes = new Uint32Array(256 >> shift);
    for (let i = 0; i < 256; i++) sizes[i >> shift] += this.counts[i];
    return new Map([...sizes.entries()].filter(([, size]) => size));
  }
}

const PROBABILITY_BITS = 24; // of the entropy coder
const FREQUENCIES = [0];
for (let octave = 0; octave < 32; octave++) for (const mantissa of [16, 19, 23, 27]) FREQUENCIES.push(mantissa * 2 ** octave);

/** Fields of integers: constriction's AnsCoder, a stack of 32-bit words below a state of 64 bits, high and low half. */
class Symbols {
  constructor(tables, words) {
    const view = new DataView(words.buffer, words.byteOffset, words.length);
    const size = tables.length < 4 ? 2 ** 32 : new DataView(tables.buffer, tables.byteOffset).getUint32(0, true);
    check(size <= 2 ** 22, "tables of symbols are too large");
    check(words.length % 4 === 0, "a stream of symbols has no whole words");
    this.words = Array.from({ length: words.length / 4 }, (_, i) => view.getUint32(4 * i, true));
    check(this.words.at(-1) !== 0, "a stream of symbols ends in 0");
    this.tables = unpackLzma(tables.subarray(4), size);
    this.position = 0;
    const first = this.words.pop() ?? 0;
    [this.high, this.low] = this.words.length ? [first, this.words.pop()] : [0, first];
  }

  /** A field of `num` symbols from `lowest` to `highest`. */
  read(num, lowest, highest, contexts = null) {
    if (!num) return new Int16Array(0);
    const sizes = contexts ? [...contexts.runs(this.#shift()).values()] : [num];
    return this.#symbols(num, this.#readTables(sizes.length, lowest, highest), sizes, contexts?.order);
  }

  /** What `readOne` needs to read fields that share the tables of their contexts. */
  sharedTables(lowest, highest) {
    const shift = this.#shift(), used = this.bytes(this.bytes(1)[0]);
    check(used.length && used.every((each, i) => !i || each > used[i - 1]), "contexts of tables do not rise");
    const tables = this.#readTables(used.length, lowest, highest);
    return { shift, tables: new Map(tables.map((table, i) => [used[i], table])) };
  }

  /** One of these fields. */
  readOne(num, { shift, tables }, contexts) {
    const runs = contexts.runs(shift);
    const own = [...runs.keys()].map((context) => tables.get(context));
    check(own.every(Boolean), "a context has no table");
    return this.#symbols(num, own, [...runs.values()], contexts.order);
  }

  #shift() {
    const [shift] = this.bytes(1);
    check(shift <= 8, "contexts are shortened by more than 8 bits");
    return shift;
  }

  /** The lowest symbol of each table, and cumulative probabilities. */
  #readTables(num, lowest, highest) {
    const heads = this.bytes(8 * num);
    const view = new DataView(heads.buffer, heads.byteOffset);
    return Array.from({ length: num }, (_, i) => {
      const low = view.getInt32(4 * i, true), count = view.getInt32(4 * (num + i), true);
      check(lowest <= low && count > 0 && low + count - 1 <= highest, "a table has symbols out of range");
      const levels = this.bytes(count);
      check(levels.some(Boolean) && levels.every((level) => level < FREQUENCIES.length), "a table has no valid frequencies");
      return { low, bounds: boundsOf(levels) };
    });
  }

  /** As many symbols of each table as `sizes` says, in their places. */
  #symbols(num, tables, sizes, order) {
    const symbols = new Int16Array(num);
    let done = 0;
    tables.forEach(({ low, bounds }, i) => {
      for (const end = done + sizes[i]; done < end; done++)
        symbols[order ? order[done] : done] = low + (bounds.length > 2 ? this.#next(bounds) : 0);
    });
    return symbols;
  }

  /** Everything has been read. */
  finish() {
    check(this.position === this.tables.length && !this.high && !this.low, "symbols are left");
  }

  /** The next bytes of the tables. */
  bytes(num) {
    const taken = this.tables.subarray(this.position, (this.position += num));
    check(taken.length === num, "tables of symbols are too short");
    return taken;
  }

  #next(bounds) {
    const quantile = this.low & (2 ** PROBABILITY_BITS - 1);
    let from = 0;
    for (let to = bounds.length - 1; to - from > 1; ) {
      const middle = (from + to) >> 1;
      if (bounds[middle] <= quantile) from = middle;
      else to = middle;
    }
    const left = bounds[from], share = bounds[from + 1] - left;
    // state = (state >> 24) * share + quantile - left, in two parts below 2^53
    const rest = this.high * 256 + (this.low >>> PROBABILITY_BITS);
    const restLow = rest % 2 ** 20;
    const sum = restLow * share + quantile - left;
    const sumLow = sum % 2 ** 20;
    const sumHigh = ((rest - restLow) / 2 ** 20) * share + (sum - sumLow) / 2 ** 20;
    this.low = (sumHigh % 2 ** 12) * 2 ** 20 + sumLow;
    this.high = Math.floor(sumHigh / 2 ** 12);
    if (!this.high && this.words.length) [this.high, this.low] = [this.low, this.words.pop()];
    return from;
  }
}

/** Cumulative probabilities times 2^24, rounded as constriction's `Categorical(..., perfect=False)` does. */
function boundsOf(levels) {
  const total = levels.reduce((sum, level) => sum + FREQUENCIES[level], 0);
  const shares = Array.from(levels, (level) => FREQUENCIES[level] / total);
  const scale = (2 ** PROBABILITY_BITS - levels.length) / shares.reduce((sum, share) => sum + share, 0);
  const bounds = new Uint32Array(levels.length + 1);
  let before = 0;
  shares.forEach((share, i) => {
    bounds[i] = Math.floor(before * scale) + i;
    before += share;
  });
  bounds[levels.length] = 2 ** PROBABILITY_BITS;
  return bounds;
}

// ---- profile "compact": codes and values ----

const BLOCK = 2 ** 18; // most Gaussians of a block
const MAX_CODE = 2 ** 15 - 1;
const THINNEST = 5.5; // natural log of the largest ratio of axes
const BENDS = [0.2, 0.4];
const ORDERS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
const OCTAVE = 369.3299304675746; // 256 / ln 2
const ROOTS = [1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429]; // 2^(i/4)
const WEIGHTS = Array.from({ length: 49 }, (_, i) => ROOTS[i % 4] * 2 ** (Math.floor(i / 4) - 6));
const CELL_BITS = 5; // of an axis of the larger cells, which have a colour basis each

async function* readCompact(file) {
  const { header, streams } = file;
  const num = integer(header, "gaussians", 0, Math.min(MAX_GAUSSIANS, 256 * (file.sizeOfStreams + 1)));
  const levels = header.version > 2 ? readLevels(header) : [num];
  const blocks = blocksOf(levels), common = ["viewpoints", "basis"];
  const namesOf = (i) => ["tables", "symbols", "positions", "places"].map((name) => `${name}.${i}`);
  file.checkNames([...common, "padding", ...blocks.flatMap((_, i) => namesOf(i))]);
  await file.read(common);
  const code = readCode(header, streams);
  const widths = { means: 3, logScales: 3, quats: 4, opacityLogits: 1, shDc: 3, shRest: 3 * code.numRest };
  const model = { num, levels };
  for (const [name, width] of Object.entries(widths)) model[name] = new Float32Array(width * num);
  for (const [i, { level, start, end }] of blocks.entries()) {
    await (end === num ? file.readAll() : file.read(namesOf(i)));
    readBlock(code, (name) => streams.get(`${name}.${i}`), start, end - start, model);
    await breath();
    if (end < levels[level]) continue;
    if (levels.length > 1) sortByOpacity(model, widths, levels[level - 1] ?? 0, end);
    yield { model, num: end };
  }
  if (!num) {
    await file.readAll();
    yield { model, num };
  }
}

function readLevels({ levels, gaussians }) {
  const isRising = Array.isArray(levels) && levels.every((end, i) => Number.isInteger(end) && end > (levels[i - 1] ?? 0));
  check(isRising && 2 <= levels.length && levels.length <= 2 ** 12 && levels.at(-1) === gaussians, "levels in the header are wrong");
  return levels;
}

/** Runs of Gaussians that are stored independently, and the level of each. */
function blocksOf(levels) {
  return levels.flatMap((levelEnd, level) => {
    const levelStart = levels[level - 1] ?? 0, num = levelEnd - levelStart, count = Math.ceil(num / BLOCK);
    const cut = (i) => levelStart + Math.floor((num * i) / count);
    return Array.from({ length: count }, (_, i) => ({ level, start: cut(i), end: cut(i + 1) }));
  });
}

/** The most opaque Gaussians of a level first, so that it is good to draw its first ones only. */
function sortByOpacity(model, widths, start, end) {
  const logits = model.opacityLogits.subarray(start, end);
  const order = Uint32Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  for (const [name, width] of Object.entries(widths)) {
    const level = model[name].subarray(width * start, width * end), before = level.slice();
    order.forEach((from, i) => level.set(before.subarray(width * from, width * (from + 1)), width * i));
  }
}

/** Let the page answer between two long computations. */
const breath = () => new Promise((resolve) => setTimeout(resolve));

/** What a header says, checked, and the tables that follow from it. */
function readCode(header, streams) {
  const numRest = header.num_rest;
  check(SH_REST_COUNTS.includes(numRest), "num_rest in the header is not 0, 3, 8 or 15");
  const positionBits = integer(header, "position_bits", 8, 14);
  const { centre, spread, view_cosine: viewCosine } = header;
  check(isList(centre, 3, (each) => isNumber(each, -1e30)), "centre in the header is no list of 3 numbers");
  check(isNumber(spread, 1e-30) && isNumber(viewCosine, -1), "spread or view_cosine in the header is out of range");
  const [scaleStep, opacityStep, quatStep, dcStep, restStep] = ["scale", "opacity", "quat", "dc", "rest"].map((name) => {
    check(isNumber(header[`${name}_step`], 1e-30, 1e20), `${name}_step in the header is out of range`);
    return header[`${name}_step`];
  });
  const basis = readPcaBasis(header.basis, streams.get("basis"), 3 * numRest);
  const numComponents = basis ? header.basis : 3 * numRest;
  const colors = colorBasis(streams.get("viewpoints"), viewCosine, centre, spread, 1 + numRest);
  const thinner = BENDS.map((bend) => {
    const highest = Math.min(MAX_CODE, Math.floor(THINNEST / (1 + bend * THINNEST) / scaleStep));
    return Array.from({ length: highest + 1 }, (_, i) => (i * scaleStep) / (1 - i * scaleStep * bend));
  });
  const squares = Float64Array.from({ length: 2 ** positionBits }, (_, cell) => unfolded(cell + 0.5, positionBits) ** 2);
  const finer = (step) => WEIGHTS.map((weight) => (1 / weight) * step);
  return {
    numRest, positionBits, centre, spread, scaleStep, opacityStep, basis, numComponents, thinner, squares, colors,
    version: header.version,
    ...(header.version > 1 ? readWeights : readWeightsOfVersion1)(header),
    quatSteps: finer(quatStep),
    dcSteps: finer(dcStep),
    restSteps: finer(restStep / (colors.denominator * (basis ? 127 : 1))),
  };
}

/** Factors of opacity, log2 of the axes and distance, of rotations also of the turn, in 64ths; and a summand. */
function readWeights(header) {
  const low = integer(header, "opacity_low", -MAX_CODE, MAX_CODE), high = integer(header, "opacity_high", low, MAX_CODE);
  const factors = (key, count) => {
    const isValid = isList(header[key], count + 1, Number.isInteger) && header[key].every((each, i) => Math.abs(each) <= 2 ** (i < count ? 10 : 24));
    check(isValid, `${key} in the header is wrong`);
    return header[key];
  };
  const opacityWeights = Array.from({ length: high - low + 1 }, (_, i) => {
    const logit = clamp((low + i) * header.opacity_step, -1e5, 1e5);
    return octaves(logit - Math.sqrt(logit * logit + 4));
  });
  const turnWeights = Array.from({ length: 64 }, (_, i) => {
    const ratio = (i + 0.5) * 0.08664339756999316, square = ratio * ratio; // ln 2 / 8
    return linearLog2(0.15 + ratio * (2 + square * (1 / 3 + square * (1 / 60 + square / 2520))));
  });
  return {
    opacityLow: low, opacityWeights, turnWeights,
    colorWeight: factors("color_weight", 5), quatWeight: factors("quat_weight", 6), depth: factors("depth", 5),
  };
}

function readWeightsOfVersion1(header) {
  const [opacityWeights, turnWeights] = ["opacity_weights", "turn_weights"].map((key) => {
    const values = header[key];
    const isWeight = (each) => Number.isInteger(each) && Math.abs(each) <= 2 ** 24;
    check(isList(values, values?.length, isWeight) && values.length && values.length <= 2 * MAX_CODE + 1, `${key} in the header is wrong`);
    return values;
  });
  const offset = integer(header, "weight_offset", -(2 ** 24), 2 ** 24);
  return {
    opacityLow: integer(header, "opacity_low", -MAX_CODE, MAX_CODE), opacityWeights, turnWeights,
    colorWeight: [64, 64, 64, 0, -64, offset],
    quatWeight: [64, 64, 64, 0, -64, 64, offset],
    depth: [64, 0, -160, -64, 192, integer(header, "depth_offset", -(2 ** 24), 2 ** 24)],
  };
}

/** 256 log2 of what a natural log is of, rounded. */
const octaves = (log) => rounded(clamp(log, -1e5, 1e5) * OCTAVE);

const NUMBER = new Float64Array(1), WORDS = new Uint32Array(NUMBER.buffer);
const HIGH_WORD = new Uint8Array(new Uint16Array([1]).buffer)[0]; // 1 where numbers are little-endian

/** 256 log2, linear between powers of 2: the exponent and the first bits of the mantissa. */
function linearLog2(value) {
  NUMBER[0] = value;
  return (WORDS[HIGH_WORD] - (1023 << 20) + (1 << 11)) >> 12;
}

/** Components times columns; null: the components are the coefficients. */
function readPcaBasis(components, data, numColumns) {
  if (components === "none" && !data.length) return null;
  const isValid = Number.isInteger(components) && 0 <= components && components <= numColumns;
  check(isValid && data.length === components * numColumns, "the PCA basis has another size than the header says");
  return Float64Array.from(data, (byte) => (byte << 24) >> 24);
}

/** Read a block of Gaussians from `start` on into the model. */
function readBlock(code, stream, start, num, model) {
  const symbols = new Symbols(stream("tables"), stream("symbols"));
  const lengths = symbols.read(num, 0, 3 * code.positionBits);
  const cells = readCells(stream("positions"), lengths, code.positionBits);
  const opacity = symbols.read(num, code.opacityLow, Math.min(MAX_CODE, code.opacityLow + code.opacityWeights.length - 1));
  const order = symbols.read(num, 0, ORDERS.length - 1);
  const size = symbols.read(num, -MAX_CODE, MAX_CODE);
  const [seconds, thirds] = code.thinner;
  const second = symbols.read(num, 0, seconds.length - 1, contextsOf(size, 128));
  const third = symbols.read(num, 0, thirds.length - 1, contextsOf(second));
  const { weights, quatWeights, depths } = derived(code, cells, opacity, order, size, second, third);
  const places = unpackBits(stream("places"), depths.map((depth) => 3 * depth));
  const quats = quatWeights.map((each) => symbols.read(num, -MAX_CODE, MAX_CODE, new Contexts(each)));
  const components = readColors(symbols, code, weights);
  symbols.finish();

  const coefficients = new Float64Array(3 * code.numRest), color = new Float64Array(3 * (1 + code.numRest));
  for (let i = 0; i < num; i++) {
    const to = start + i, depth = depths[i], mask = 2 ** depth - 1;
    for (let axis = 0; axis < 3; axis++) {
      const place = ((places[i] >> (axis * depth)) & mask) + 0.5;
      model.means[3 * to + axis] = unfolded(cells[3 * i + axis] + place / 2 ** depth, code.positionBits) * code.spread + code.centre[axis];
    }
    const longest = size[i] * code.scaleStep;
    const [first, middle, last] = ORDERS[order[i]];
    model.logScales[3 * to + first] = longest;
    model.logScales[3 * to + middle] = longest - seconds[second[i]];
    model.logScales[3 * to + last] = longest - thirds[third[i]];
    let squares = 0;
    for (let axis = 0; axis < 3; axis++) {
      const imaginary = quats[axis][i] * code.quatSteps[quatWeights[axis][i]];
      squares += imaginary * imaginary;
      model.quats[4 * to + 1 + axis] = imaginary;
    }
    model.quats[4 * to] = Math.sqrt(Math.max(1 - squares, 0));
    model.opacityLogits[to] = opacity[i] * code.opacityStep;

    components.of(i, coefficients);
    code.colors.from(cells.subarray(3 * i, 3 * i + 3), code.positionBits, coefficients, color);
    const restStep = code.restSteps[weights[i]], dcStep = code.dcSteps[weights[i]];
    for (let j = 0; j < color.length; j++) color[j] *= restStep;
    const luma = components.dc[0][i] * dcStep, orange = components.dc[1][i] * dcStep * 1.5, green = components.dc[2][i] * dcStep * 1.5;
    const part = (green * 2) / 3;
    color[0] += luma - part + orange;
    color[1] += luma + 2 * part;
    color[2] += luma - part - orange;
    for (let j = 0; j < 3; j++) model.shDc[3 * to + j] = color[j];
    for (let j = 3; j < color.length; j++) model.shRest[(color.length - 3) * to + j - 3] = color[j];
  }
}

function contextsOf(values, shift = 0) {
  return new Contexts(Uint8Array.from(values, (value) => clamp(value + shift, 0, 255)));
}

/** The cells x, y, z of Gaussians, from the bit lengths of their steps along the curve and the bits below the first. */
function readCells(bits, lengths, positionBits) {
  const steps = unpackBits(bits, lengths.map((length) => Math.max(length, 1) - 1));
  const cells = new Int16Array(3 * lengths.length);
  let place = 0;
  for (let i = 0; i < lengths.length; i++) {
    if (lengths[i]) place += 2 ** (lengths[i] - 1) + steps[i];
    check(place < 2 ** (3 * positionBits), "a position lies behind the end of the curve");
    for (let axis = 0; axis < 3; axis++) cells[3 * i + axis] = cellOf(place, axis);
  }
  return cells;
}

/** Weights, those of the rotation about x, y and z, and depths of places. */
function derived(code, cells, opacity, order, size, second, third) {
  const num = order.length;
  const weights = new Uint8Array(num), depths = new Uint8Array(num), quatWeights = [0, 1, 2].map(() => new Uint8Array(num));
  const [seconds, thirds] = code.thinner.map((table) => table.map(octaves));
  const limited = (fixed) => clamp(Math.floor(fixed / 256), -24, 24) + 24;
  const combined = (factors, features) => {
    let sum = 32;
    for (let i = 0; i < factors.length - 1; i++) sum += factors[i] * features[i];
    return Math.floor(sum / 64) + factors.at(-1);
  };
  for (let i = 0; i < num; i++) {
    const opacityWeight = code.opacityWeights[opacity[i] - code.opacityLow];
    const a1 = octaves(size[i] * code.scaleStep), a2 = seconds[second[i]], a3 = thirds[third[i]];
    const distance = linearLog2(1 + code.squares[cells[3 * i]] + code.squares[cells[3 * i + 1]] + code.squares[cells[3 * i + 2]]);
    const features = [opacityWeight, a1, a1 - a2, a1 - a3, distance, 0];
    weights[i] = limited(combined(code.colorWeight, features));
    depths[i] = clamp(Math.floor(combined(code.depth, features) / 1024), 0, 7);
    const apart = [Math.abs(a3 - a2), a3, a2]; // of the two axes that a turn about the longest axis turns, and so on
    ORDERS[order[i]].forEach((axis, rank) => {
      features[5] = code.turnWeights[Math.min(apart[rank] >> 5, code.turnWeights.length - 1)];
      quatWeights[axis][i] = limited(combined(code.quatWeight, features));
    });
  }
  return { weights, quatWeights, depths };
}

/** 96 log2 of 1 + the size of the components before, in eighths. */
const ACTIVITY_LEVELS = Int16Array.from({ length: 3201 }, (_, eighths) => (3 * linearLog2(1 + eighths / 8)) >> 3);

/** The codes of colours: three of coefficient 0 of each Gaussian, and `of`, which writes its other coefficients. */
function readColors(symbols, code, weights) {
  const num = weights.length, numComponents = code.numComponents, numColumns = 3 * code.numRest;
  const byWeight = new Contexts(weights);
  const dc = [0, 1, 2].map(() => symbols.read(num, -MAX_CODE, MAX_CODE, byWeight));
  const ends = symbols.read(num, 0, numComponents, byWeight);
  const { counts, order } = contextsOf(ends.map((end) => 255 - end)); // by falling ends
  const biases = code.version > 1 && counts[255] < num ? Int8Array.from(symbols.bytes(numComponents)) : null;
  const tables = biases && symbols.sharedTables(-MAX_CODE, MAX_CODE);
  const components = [], activity = new Int16Array(num);
  for (let k = 0, remaining = num - counts[255]; k < numComponents; k++) {
    const longer = remaining - counts[254 - k]; // Gaussians with a further component
    const numbers = Uint8Array.from({ length: remaining }, (_, i) => {
      const weight = weights[order[i]];
      if (!biases) return Math.min(k ? activity[i] >> 2 : weight, 127) + (i < longer ? 0 : 128);
      return clamp((ACTIVITY_LEVELS[activity[i]] + 24 * weight + 32 * biases[k]) >> 7, 0, 31) + (i < longer ? 0 : 32);
    });
    const contexts = new Contexts(numbers);
    const values = biases ? symbols.readOne(remaining, tables, contexts) : symbols.read(remaining, -MAX_CODE, MAX_CODE, contexts);
    for (let i = 0; i < longer; i++) activity[i] = ((3 * activity[i]) >> 2) + 8 * Math.min(Math.abs(values[i]), 100);
    components.push(values);
    remaining = longer;
  }
  const rank = new Uint32Array(num);
  order.forEach((i, place) => (rank[i] = place));
  const { basis } = code;
  return {
    dc,
    of(i, coefficients) {
      coefficients.fill(0);
      for (let k = 0, from = 0; k < ends[i]; k++, from += numColumns) {
        const value = components[k][rank[i]];
        if (!basis) coefficients[k] = value;
        else if (value) for (let j = 0; j < numColumns; j++) coefficients[j] += value * basis[from + j];
      }
    },
  };
}

// ---- profile "compact": the colour basis ----

const FRACTION = 4096; // denominator of matrices and harmonics

/** From coefficients in the colour basis of a cell to `denominator` times those of spherical harmonics. */
function colorBasis(data, cosine, centre, spread, num) {
  check(data.length % 15 === 0 && data.length <= 32 * 15, "viewpoints have a wrong size");
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const viewpoints = Array.from({ length: data.length / 15 }, (_, i) => ({
    position: [0, 4, 8].map((at) => view.getFloat32(15 * i + at, true)),
    direction: [12, 13, 14].map((at) => view.getInt8(15 * i + at)),
  }));
  check(viewpoints.every(({ position }) => isList(position, 3, (each) => isNumber(each, -1e30))), "viewpoints are out of range");
  const isIdentity = !viewpoints.length || num === 1;
  const matrices = new Map();
  return {
    denominator: isIdentity ? 1 : FRACTION,
    /** Of the (num - 1) x 3 `coefficients` without the first, to num x 3 `color`. */
    from(cell, positionBits, coefficients, color) {
      color.fill(0);
      if (isIdentity) return color.set(coefficients, 3);
      const shift = positionBits - CELL_BITS;
      const key = ((cell[0] >> shift) << (2 * CELL_BITS)) | ((cell[1] >> shift) << CELL_BITS) | (cell[2] >> shift);
      if (!matrices.has(key)) {
        const middle = centre.map((each, axis) => unfolded((cell[axis] >> shift) + 0.5, CELL_BITS) * spread + each);
        matrices.set(key, inverseOfLower(cholesky(moments(viewpoints, cosine, middle, num))));
      }
      const inverse = matrices.get(key);
      for (let b = 1; b < num; b++) {
        const row = inverse[b], red = coefficients[3 * b - 3], green = coefficients[3 * b - 2], blue = coefficients[3 * b - 1];
        for (let a = 0; a <= b; a++) {
          color[3 * a] += row[a] * red;
          color[3 * a + 1] += row[a] * green;
          color[3 * a + 2] += row[a] * blue;
        }
      }
    },
  };
}

/** Mean of Y Y^T of the spherical harmonics Y of the viewpoints that see a point, and of the identity: its lower half. */
function moments(viewpoints, cosine, middle, num) {
  const sums = Array.from({ length: num }, () => new Float64Array(num));
  let seen = 0;
  for (const { position, direction } of viewpoints) {
    const [x, y, z] = middle.map((each, axis) => each - position[axis]);
    const length = Math.sqrt(x * x + y * y + z * z);
    const along = (x * direction[0] + y * direction[1] + z * direction[2]) / 127;
    if (!(length > 0 && along >= cosine * length)) continue;
    seen++;
    const basis = harmonics(x / length, y / length, z / length).map((each) => rounded(each * Math.sqrt(4 * Math.PI) * FRACTION));
    for (let i = 0; i < num; i++) for (let j = 0; j <= i; j++) sums[i][j] += basis[i] * basis[j];
  }
  return sums.map((row, i) => row.map((sum, j) => (sum / FRACTION ** 2 + (i === j ? 1 : 0)) / (seen + 1)));
}

/** L with L L^T = a positive definite matrix, in place of its lower half; the order of operations fixes the bits. */
function cholesky(matrix) {
  const num = matrix.length;
  for (let k = 0; k < num; k++) {
    const root = Math.sqrt(matrix[k][k]);
    for (let i = k; i < num; i++) matrix[i][k] /= root;
    for (let i = k + 1; i < num; i++) for (let j = k + 1; j <= i; j++) matrix[i][j] -= matrix[i][k] * matrix[j][k];
  }
  return matrix;
}

/** The inverse of a lower triangular matrix, times the denominator, in integers. */
function inverseOfLower(lower) {
  const num = lower.length;
  const inverse = Array.from({ length: num }, (_, i) => new Float64Array(num).fill(1, i, i + 1));
  for (let k = 0; k < num; k++) {
    for (let j = 0; j <= k; j++) inverse[k][j] /= lower[k][k];
    for (let i = k + 1; i < num; i++) for (let j = 0; j <= k; j++) inverse[i][j] -= lower[i][k] * inverse[k][j];
  }
  return inverse.map((row) => row.map((each) => rounded(each * FRACTION)));
}

const ROOTS_OF_SH = [1 / 4, 3 / 4, 15 / 4, 5 / 16, 15 / 16, 35 / 32, 105 / 4, 21 / 32, 7 / 16, 105 / 16].map((fraction) =>
  Math.sqrt(fraction / Math.PI));

/** The 16 spherical harmonics of degrees 0 to 3, with the signs of 3DGS, of a direction of length 1. */
function harmonics(x, y, z) {
  const [r0, r1, r2, r20, r22, r3, r31, r32, r30, r33] = ROOTS_OF_SH;
  return [
    r0, -r1 * y, r1 * z, -r1 * x,
    r2 * x * y, -r2 * y * z, r20 * (3 * z * z - 1), -r2 * x * z, r22 * (x * x - y * y),
    -r3 * y * (3 * x * x - y * y), r31 * x * y * z, -r32 * y * (5 * z * z - 1), r30 * z * (5 * z * z - 3),
    -r32 * x * (5 * z * z - 1), r33 * z * (x * x - y * y), -r3 * x * (x * x - 3 * y * y),
  ];
}
