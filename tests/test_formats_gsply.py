"""A second program that is not ours, in Python: gsply reads our .compressed.ply and .spz; skipped where it is missing.

``pip install "gsply[spz]"`` brings it; it is no requirement, as it wants numba. Tested with gsply 0.4.6.
"""

import numpy as np
import pytest
from format_cases import ENDINGS, FORMATS, errors, random_rows

gsply = pytest.importorskip("gsply", reason="gsply is not installed: no second program to check the files")


@pytest.mark.parametrize("num_rest", [0, 3, 8, 15])
@pytest.mark.parametrize("name, reader", [("compressed_ply", "plyread"), ("spz", "read_spz")])
def test_it_reads_our_files_as_we_do(name, reader, num_rest, tmp_path):
    path = tmp_path / f"ours{ENDINGS[name]}"
    FORMATS[name].write(path, random_rows(700, num_rest))
    ours, data = FORMATS[name].read(path), getattr(gsply, reader)(str(path))
    num = len(ours["means"])
    rest = np.zeros((num, 0, 3)) if data.shN is None else np.asarray(data.shN).reshape(num, -1, 3)
    theirs = {
        "means": data.means,
        "log_scales": data.scales,
        "quats": data.quats,
        "opacity_logits": data.opacities.reshape(num, 1),
        "sh_dc": data.sh0.reshape(num, 1, 3),
        "sh_rest": rest,
    }
    off = errors(ours, theirs)
    assert off.pop("opacity_logits") <= 1 / 255 and all(error < 2e-5 for error in off.values()), off
