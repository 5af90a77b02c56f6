// The model in the page, as Spark's splats.

import { ExtSplats, SplatMesh } from "@sparkjsdev/spark";
import workerSource from "worker-source";
import { packHarmonics } from "./harmonics.js";

const SH_C0 = 0.28209479177387814; // spherical harmonic of degree 0

/**
 * Read a model.
 *
 * @param {Uint8Array} bytes of the file
 * @param {"gsz" | "spz"} format of the file
 * @param {{origin: number[], scale: number}} units of the coordinates in the file: file = origin + scale * world
 * @returns {Promise<SplatMesh>} in world units
 */
export async function meshOf(bytes, format, units) {
  const mesh = new SplatMesh({ extSplats: splatsOf(await decoded(bytes, format), units) });
  await mesh.initialized;
  return mesh;
}

/** The model in a file, by a worker, so that the page stays responsive. */
function decoded(bytes, format) {
  const address = URL.createObjectURL(new Blob([workerSource], { type: "text/javascript" }));
  const worker = new Worker(address);
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data: { result, error } }) => (error === undefined ? resolve(result) : reject(new Error(error)));
    worker.onerror = ({ message }) => reject(new Error(message ?? "its worker does not run"));
    worker.postMessage({ id: 0, name: "decode", args: { bytes, format } }, [bytes.buffer]);
  }).finally(() => {
    worker.terminate();
    URL.revokeObjectURL(address);
  });
}

function splatsOf({ num, means, logScales, quats, opacityLogits, shDc, shRest }, { origin, scale }) {
  const splats = new ExtSplats();
  const extArrays = splats.ensureSplats(num);
  for (let i = 0; i < num; i++) {
    const [x, y, z] = [0, 1, 2].map((axis) => (means[3 * i + axis] - origin[axis]) / scale);
    const [scaleX, scaleY, scaleZ] = [0, 1, 2].map((axis) => Math.exp(logScales[3 * i + axis]) / scale);
    const [w, ...imaginary] = quats.subarray(4 * i, 4 * i + 4);
    const length = Math.hypot(w, ...imaginary) || 1;
    const [quatX, quatY, quatZ] = imaginary.map((each) => each / length);
    const [r, g, b] = [0, 1, 2].map((channel) => 0.5 + SH_C0 * shDc[3 * i + channel]);
    splats.setSplat(
      i, { x, y, z }, { x: scaleX, y: scaleY, z: scaleZ }, { x: quatX, y: quatY, z: quatZ, w: w / length },
      1 / (1 + Math.exp(-opacityLogits[i])), { r, g, b },
    );
  }
  splats.initialize({ extArrays, numSplats: num, extra: packHarmonics(shRest, num) });
  return splats;
}
