// node decode_gsz.mjs READER FILES: decodes files, each behind its size as u32, and prints a line of JSON for each.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const [reader, files] = process.argv.slice(2);
const { decodeGsz, GszError } = await import(reader);
const bytes = readFileSync(files);
for (let at = 0; at < bytes.length; ) {
  const size = bytes.readUInt32LE(at);
  const file = bytes.subarray(at + 4, (at += 4 + size));
  try {
    const { num, means, logScales, quats, opacityLogits, shDc, shRest, antialiased, offset, levels } = await decodeGsz(file);
    const hash = createHash("sha256");
    for (const array of [means, logScales, quats, opacityLogits, shDc, shRest]) hash.update(array);
    console.log(JSON.stringify({ num, antialiased, offset, levels, hash: hash.digest("hex") }));
  } catch (error) {
    if (!(error instanceof GszError)) throw new Error(file.toString("hex").slice(0, 20000), { cause: error });
    console.log(JSON.stringify({ error: error.message }));
  }
}
