"""Which level of the instruction set a portable build of the engine takes. `make try-wheels` runs all of them."""

import os
import subprocess
import sys

import pytest
from diff_gaussian_rasterization.levels import choose_level


@pytest.mark.parametrize(
    "supported, wanted, expected",
    [
        ("v2 v3 v4", "", "v4"),
        ("v2 v3", "", "v3"),
        ("v2", "", "v2"),
        ("v2 v3 v4", "v2", "v2"),
        ("v2 v3", "v3", "v3"),
    ],
)
def test_the_highest_or_the_wanted_one(supported, wanted, expected):
    assert choose_level({name: name in supported for name in ("v2", "v3", "v4")}, wanted) == expected


@pytest.mark.parametrize(
    "levels, wanted, message",
    [
        ({"v2": False, "v3": False}, "", "this processor is below x86-64-v2, .* from its source"),
        ({"v2": False, "v3": False}, "v3", "this processor is below x86-64-v2, .* from its source"),
        (
            {"v2": True, "v3": False},
            "v3",
            "DGR_ISA=v3: processor or .* lack it; unset DGR_ISA or name one of v2$",
        ),
        ({"v2": True, "v3": True}, "avx2", "DGR_ISA=avx2: this build has no such level; .* one of v2, v3$"),
        ({}, "v3", "DGR_ISA=v3: this build has no such level; unset DGR_ISA$"),
    ],
)
def test_a_level_that_is_not_there_is_one_line(levels, wanted, message):
    with pytest.raises(ImportError, match=message) as info:
        choose_level(levels, wanted)
    assert "\n" not in str(info.value)


def test_the_commands_say_it_in_one_line():
    environment = os.environ | {"DGR_ISA": "v1"}
    command = [sys.executable, "-m", "compact_splats", "render", "-m", "no_model", "-s", "no_scene"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: DGR_ISA=v1: ") and done.stderr.count("\n") == 1


def test_an_old_torch_is_one_line(tmp_path):
    (tmp_path / "torch.py").write_text('__version__ = "2.3.1+cpu"')
    command = [sys.executable, "-c", "import diff_gaussian_rasterization"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: the engine needs torch 2.4 or newer, this is 2.3.1+cpu: pip install 'torch>=2.4'"
    )
