// The model in the page, as Spark's splats.

import { ExtSplats, SplatMesh } from "@sparkjsdev/spark";
import workerSource from "worker-source";
import { packHarmonics } from "./harmonics.js";

const SH_C0 = 0.28209479177387814; // spherical harmonic of degree 0

/** Reads a model in a worker, so that the page stays responsive. */
export class Reader {
  #address = URL.createObjectURL(new Blob([workerSource], { type: "text/javascript" }));
  #worker = new Worker(this.#address);
  #num = 0; // of the Gaussians that it has read

  /**
   * @param {"gsz" | "spz"} format of the file
   * @param {{origin: number[], scale: number}} units of the coordinates in the file: file = origin + scale * world
   */
  constructor(format, units) {
    Object.assign(this, { format, units });
  }

  /**
   * Read the next level.
   *
   * @param {Uint8Array} bytes of the file, from the end of the level before to that of this one
   * @returns {Promise<{mesh: SplatMesh, total: number}>} in world units, and the number of Gaussians in the file
   */
  async next(bytes) {
    const { level, total } = await new Promise((resolve, reject) => {
      this.#worker.onmessage = ({ data: { result, error } }) => (error === undefined ? resolve(result) : reject(new Error(error)));
      this.#worker.onerror = ({ message }) => reject(new Error(message ?? "its worker does not run"));
      this.#worker.postMessage({ id: 0, name: "decode", args: { bytes, format: this.format, start: this.#num } }, [bytes.buffer]);
    });
    this.#num += level.num;
    const mesh = new SplatMesh({ extSplats: splatsOf(level, this.units) });
    await mesh.initialized;
    return { mesh, total };
  }

  close() {
    this.#worker.terminate();
    URL.revokeObjectURL(this.#address);
  }
}

/** Draw only the first `count` splats of a mesh. */
export function drawFirst(mesh, count) {
  mesh.extSplats.numSplats = count;
  mesh.updateMappingVersion();
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
