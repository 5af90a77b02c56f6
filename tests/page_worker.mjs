// node page_worker.mjs WORKER NUMBERS SPZ: the order in which the worker of a page puts float32 numbers, as a line of JSON,
// and the arrays of the model in an .spz as another.

import { readFileSync } from "node:fs";

const [worker, numbers, spz] = process.argv.slice(2);
const answers = [];
globalThis.self = globalThis;
self.postMessage = (message) => answers.push(message);
await import(worker);
const bits = new Uint32Array(new Uint8Array(readFileSync(numbers)).buffer);
const args = { numSplats: bits.length, readback: bits, ordering: new Uint32Array(bits.length) };
await self.onmessage({ data: { id: 1, name: "sortSplats32", args } });
await self.onmessage({ data: { id: 2, name: "decode", args: { bytes: new Uint8Array(readFileSync(spz)), format: "spz", start: 0 } } });
await self.onmessage({ data: { id: 3, name: "decode", args: { bytes: new Uint8Array(9), format: "gsz", start: 0 } } });
const [{ result: sorted }, { result: { level: model } }, { error }] = answers;
console.log(JSON.stringify([...sorted.ordering.subarray(0, sorted.activeSplats)]));
console.log(JSON.stringify(Object.fromEntries(Object.entries(model).map(([name, a]) => [name, a.length ? [...a] : a]))));
console.log(JSON.stringify(error));
