// node decode_gsz.mjs READER FILES [SIZE]: decodes files, each behind its size as u32, and prints a line of JSON for each: the
// model or the error; with SIZE, of a file that arrives in parts of so many bytes or, "stream", as a stream, a list of the levels
// and then of the error.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const [reader, files, partSize] = process.argv.slice(2);
const { decodeGsz, decodeLevels, GszError } = await import(reader);
const bytes = readFileSync(files);

function found(model, num) {
  const hash = createHash("sha256"), { antialiased, offset, levels } = model;
  for (const name of ["means", "logScales", "quats", "opacityLogits", "shDc", "shRest"])
    hash.update(model[name].subarray(0, (model[name].length / Math.max(model.num, 1)) * num));
  return { num, antialiased, offset, levels, hash: hash.digest("hex") };
}

async function* partsOf(file) {
  for (let at = 0; at < file.length; at += Number(partSize)) yield file.subarray(at, at + Number(partSize));
}

for (let at = 0; at < bytes.length; ) {
  const size = bytes.readUInt32LE(at);
  const file = bytes.subarray(at + 4, (at += 4 + size));
  const said = [];
  try {
    const parts = partSize === "stream" ? new Blob([file]).stream() : partsOf(file);
    if (partSize) for await (const { model, num } of decodeLevels(parts)) said.push(found(model, num));
    else said.push(await decodeGsz(file).then((model) => found(model, model.num)));
  } catch (error) {
    if (!(error instanceof GszError)) throw new Error(file.toString("hex").slice(0, 20000), { cause: error });
    said.push({ error: error.message });
  }
  console.log(JSON.stringify(partSize ? said : said[0]));
}
