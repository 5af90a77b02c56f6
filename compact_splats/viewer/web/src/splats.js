// The model in the page, as Spark's splats.

import { ExtSplats, SplatMesh } from "@sparkjsdev/spark";
import { decodeGsz } from "./gsz.js";
import { packHarmonics, writeHarmonics } from "./harmonics.js";

const SH_C0 = 0.28209479177387814; // spherical harmonic of degree 0

/**
 * Read a model.
 *
 * @param {Uint8Array} bytes of the file
 * @param {"gsz" | "spz"} format of the file
 * @param {{origin: number[], scale: number}} units of the coordinates in a .gsz: file = origin + scale * world
 * @returns {Promise<SplatMesh>} in world units
 */
export async function meshOf(bytes, format, units) {
  if (format === "gsz") return await shown({ extSplats: splatsOf(await decodeGsz(bytes), units) });
  const mesh = await shown({ fileBytes: bytes.slice(), fileType: "spz", fileName: "model.spz", extSplats: true });
  await writeHarmonics(mesh.extSplats.extra, bytes);
  return mesh;
}

async function shown(options) {
  const mesh = new SplatMesh(options);
  await mesh.initialized;
  return mesh;
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
