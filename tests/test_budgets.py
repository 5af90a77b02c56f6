"""budget.txt: the 13 scenes, and errors in a table."""

from pathlib import Path

import pytest

from compact_splats.suite.budgets import COLUMNS, SceneBudget, read_budgets
from compact_splats.utils.errors import InputError

ROOT = Path(__file__).parent.parent
HEADER = " ".join(COLUMNS)
LINE = "fox own images_2 1000 400 500 0.02"


@pytest.fixture
def table(tmp_path):
    """Write a table and give its path."""

    def write(*lines: str) -> Path:
        path = tmp_path / "budget.txt"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_the_projects_table_has_the_scenes_and_budgets_of_the_papers():
    scenes = read_budgets(ROOT / "budget.txt").values()
    assert len(scenes) == 13
    large = {"bicycle", "flowers", "garden", "stump", "treehill", "drjohnson", "truck"}
    assert {line.scene for line in scenes if line.budget == 600_000} == large
    assert {line.scene for line in scenes if line.budget == 300_000} == {line.scene for line in scenes} - large
    assert all(line.small == 0.4 * line.budget for line in scenes)
    assert {line.scene for line in scenes if line.fast == 600_000} == {"bicycle", "garden"}
    assert {line.fast for line in scenes} == {300_000, 600_000}


def test_the_projects_table_names_folders_and_rates_by_kind_of_scene():
    scenes = read_budgets(ROOT / "budget.txt").values()
    assert {(line.dataset, line.images, line.fast_sh_rate) for line in scenes} == {
        ("mip-nerf-360", "images_4", 0.005),
        ("mip-nerf-360", "images_2", 0.02),
        ("deep-blending", "images", 0.0025),
        ("tanks-and-temples", "images", 0.02),
    }
    assert {line.scene for line in scenes if line.images == "images_2"} == {"bonsai", "counter", "kitchen", "room"}


def test_a_line_is_read_under_the_names_of_its_columns_in_any_order(table):
    path = table("# mine", "", f"{HEADER}  # columns", LINE + "#comment")
    expected = SceneBudget("fox", "own", "images_2", 1000, 400, 500, 0.02)
    assert read_budgets(path) == {"fox": expected}
    path = table(" ".join(reversed(COLUMNS)), " ".join(reversed(LINE.split())))
    assert read_budgets(path) == {"fox": expected}


def test_a_dash_stands_for_none(table):
    line = read_budgets(table(HEADER, "fox - - 1000 - - -"))["fox"]
    assert line == SceneBudget("fox", "other", "images", 1000, None, None, None)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], "holds no scenes"),
        (["# a comment alone"], "holds no scenes"),
        ([HEADER], "holds no scenes"),
        ([HEADER + " colour", LINE + " red"], "line 1: expected a header with the columns scene dataset"),
        ([HEADER + " scene", LINE + " fox"], "fast_sh_rate scene; correct it"),
        ([HEADER.replace(" fast_sh_rate", ""), LINE.removesuffix(" 0.02")], "small fast; correct it"),
        ([LINE], "holds no scenes"),
        ([LINE, LINE], "found fox own"),
        ([HEADER, LINE, LINE], "line 3: fox has a line already"),
        ([HEADER, LINE + " 7"], "line 2 has 8 entries"),
        ([HEADER, "fox own images"], "line 2 has 3 entries"),
        ([HEADER, LINE.replace("1000", "-1000")], "'-1000'"),
        ([HEADER, LINE.replace("1000", "0")], "'0'"),
        ([HEADER, LINE.replace("1000", "1e3")], "'1e3'"),
        ([HEADER, LINE.replace("1000", "1_000")], "'1_000'"),
        ([HEADER, LINE.replace("1000", "9" * 5000)], "'999"),
        ([HEADER, LINE.replace("1000", "²")], "'²'"),
        ([HEADER, LINE.replace("1000", "-")], "line 2: budget is missing"),
        ([HEADER, LINE.replace("400", "40 %")], "line 2 has 8 entries"),
        ([HEADER, LINE.replace("500", "half")], "'half'"),
        ([HEADER, LINE.replace("0.02", "-0.02")], "'-0.02'"),
        ([HEADER, LINE.replace("0.02", "nan")], "'nan'"),
        ([HEADER, LINE.replace("0.02", "inf")], "'inf'"),
        ([HEADER, LINE.replace("fox", "-")], "line 2: scene is missing"),
        ([HEADER, LINE.replace("fox", "../fox")], "'../fox'"),
        ([HEADER, LINE.replace("images_2", "/etc")], "'/etc'"),
        ([HEADER, LINE.replace("images_2", "--eval")], "'--eval'"),
    ],
)
def test_a_bad_table_is_refused_in_one_line_that_says_where(table, lines, found):
    path = table(*lines)
    with pytest.raises(InputError) as error:
        read_budgets(path)
    assert str(path) in str(error.value) and found in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_that_is_no_text_or_not_there_is_refused(tmp_path):
    path = tmp_path / "budget.txt"
    for content in (None, b"\xff\xfe\x00"):
        if content:
            path.write_bytes(content)
        with pytest.raises(InputError, match="--budget-file"):
            read_budgets(path)
