""".glb files as programs that are not ours have them: Khronos' validator, and the reader of glTF Transform."""

import json
import os
import subprocess

import numpy as np
import pytest
from format_cases import random_rows, unit_quats
from npm_packages import installed

from compact_splats.compression.formats import glb
from compact_splats.scene.parameters import SavedArrays

SCRIPT = """
const fs = require('fs'), path = process.argv[1];
const { NodeIO } = require('@gltf-transform/core');
(async () => {
  const report = await require('gltf-validator').validateBytes(new Uint8Array(fs.readFileSync(path)));
  const document = await new NodeIO().read(path);
  const node = document.getRoot().listNodes()[0], primitive = node.getMesh().listPrimitives()[0];
  const values = {};
  for (const name of primitive.listSemantics()) {
    const accessor = primitive.getAttribute(name), element = [];
    values[name] = [];
    for (let i = 0; i < accessor.getCount(); i++) values[name].push(Array.from(accessor.getElement(i, element)));
  }
  const problems = report.issues.messages.filter((each) => each.severity <= 1);
  console.log(JSON.stringify({ problems, values, translation: node.getTranslation() }));
})();
"""


@pytest.mark.parametrize("num_rest", [0, 15])
def test_other_programs_find_the_file_valid_and_its_values_ours(num_rest, tmp_path):
    modules = installed("gltf-4.5.1", "gltf-validator@2.0.0-dev.3.10", "@gltf-transform/core@4.5.1")
    rows, path = random_rows(40, num_rest), tmp_path / "a.glb"
    glb.write(path, SavedArrays(rows, offset=(5e5, 4.2e6, 0.25)))
    environment = {**os.environ, "NODE_PATH": str(modules)}
    done = subprocess.run(["node", "-e", SCRIPT, path], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    problems = [each for each in found["problems"] if f"attributes/{glb.EXTENSION}:" not in each["pointer"]]
    assert problems == []  # the validator does not know the extension's names of attributes
    assert found["translation"] == [-5e5, -4.2e6, 0.25]  # left, up, front
    theirs = {name.removeprefix(glb.EXTENSION + ":"): np.array(each) for name, each in found["values"].items()}
    w, x, y, z = unit_quats(rows["quats"]).T
    np.testing.assert_array_equal(theirs["POSITION"], rows["means"] * [-1, -1, 1])
    np.testing.assert_allclose(theirs["SCALE"], np.exp(rows["log_scales"]), rtol=1e-6)
    np.testing.assert_allclose(theirs["ROTATION"], np.stack([-y, x, w, -z], axis=1), atol=1e-6)
    np.testing.assert_allclose(theirs["OPACITY"], 1 / (1 + np.exp(-rows["opacity_logits"])), rtol=1e-6)
    np.testing.assert_array_equal(theirs["SH_DEGREE_0_COEF_0"], rows["sh_dc"][:, 0])
    shown = np.clip(0.5 + 0.28209479177387814 * rows["sh_dc"][:, 0], 0, 1)
    np.testing.assert_allclose(theirs["COLOR_0"][:, :3], shown, atol=0.5 / 255 + 1e-6)
    assert sum(name.startswith("SH_") for name in theirs) == 1 + num_rest
