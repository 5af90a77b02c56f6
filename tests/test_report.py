"""The report of a suite: tables against figures by hand, made from suite.json alone, and damaged files."""

import csv
import json
import math
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from compact_splats.suite.budgets import read_budgets
from compact_splats.suite.published import COMPRESSED, DATA_SETS, TRAINED
from compact_splats.suite.report import write_report
from compact_splats.suite.results import read_results
from compact_splats.suite.tables import FIGURES, make_rows
from compact_splats.utils.errors import InputError

ROOT = Path(__file__).parent.parent
MISSING = object()


def make_run(scene: str, dataset: str | None = "yard", *, psnr: float | None = 25.0, seed: int = 0, **changes) -> dict:
    name = changes.get("budget_name", "normal")
    curves = {
        "iteration": [15_000, 30_000],
        "loss": [0.2, 0.1],
        "psnr": [20.0, 25.0],
        "gaussians": [3000, 1000],
        "goal": [0.3, None],
        "regularisation_weight": [2e-4, None],
        "budget_opacity": [0.31, None],
    }
    return {
        "scene": scene,
        "dataset": dataset,
        "schedule": "full",
        "budget_name": name,
        "budget": 1000,
        "seed": seed,
        "folder": f"{scene}/full-{name}-seed{seed}",
        "state": "done",
        "error": None,
        "quality": {"SSIM": 0.8, "PSNR": psnr, "LPIPS": 0.2},
        "gaussians": 1000,
        "mb": 0.25,
        "minutes": 2.0,
        "fps": 50.0,
        "fps_size": [640, 480],
        "steps_per_second": 100.0,
        "peak_mb": 900.0,
        "compressed": None,
        "curves": curves,
        "views": None,
        "commands": {"train": "python train.py"},
        **changes,
    }


def failed(scene: str, error: str, **changes) -> dict:
    run = make_run(scene, **changes)
    kept = ("scene", "dataset", "schedule", "budget_name", "budget", "seed", "folder")
    return {**{name: run[name] for name in kept}, "state": "failed", "error": error}


def suite(*runs: dict, **changes) -> dict:
    content = {
        "format": 1,
        "command": "python test.py --data data",
        "protocol": "canonical",
        "schedule": "full",
        "commit": "0123abc",
        "machine": {"cpu": "a processor", "cores": 2, "gpu": None, "torch": "2.13.0"},
        "missing": [],
        "runs": list(runs),
        **changes,
    }
    return {name: value for name, value in content.items() if value is not MISSING}


def write(folder: Path, content: dict | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def report_of(folder: Path, content: dict, *, plots: bool = False) -> str:
    write_report(write(folder, content), plots=plots)
    return (folder / "report" / "report.md").read_text()


def rows_of(folder: Path, content: dict) -> list[dict]:
    return [row.record() for row in make_rows(read_results(write(folder, content) / "suite.json"))]


def whole_set(dataset: str, **changes) -> list[dict]:
    return [make_run(scene, dataset, **changes) for scene in DATA_SETS[dataset].scenes]


def lines_with(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_a_scene_has_mean_and_sample_standard_deviation_over_its_repeats(tmp_path):
    """20, 22 and 27 dB: mean 23, squared deviations 9 + 1 + 16 = 26, over n - 1 = 2: root of 13."""
    content = suite(*(make_run("oak", psnr=value, seed=seed) for seed, value in enumerate((20, 22, 27))))
    (row,) = rows_of(tmp_path, content)
    assert (row["row"], row["scene"], row["runs"]) == ("scene", "oak", 3)
    assert row["psnr"] == 23 and row["psnr_std"] == pytest.approx(math.sqrt(13))
    assert row["ssim_std"] == 0
    text = report_of(tmp_path, content)
    assert lines_with(text, "| oak | normal (1,000) | 3 | 1,000 | 23.00 ± 3.61 | 0.8000 | 0.2000 | 0.25 | 2.0 | 50.0 |")


def test_a_data_set_has_the_mean_of_its_scenes_whatever_their_repeats(tmp_path):
    """Scenes of 20, 22 (21, variance 2) and 30, 33, 36 (33, variance 9): mean 27, deviation sqrt(2 + 9) / 2."""
    runs = [make_run("oak", psnr=value, seed=seed) for seed, value in enumerate((20, 22))]
    runs += [make_run("elm", psnr=value, seed=seed) for seed, value in enumerate((30, 33, 36))]
    mean = rows_of(tmp_path, suite(*runs))[-1]
    assert (mean["row"], mean["scene"], mean["runs"], mean["scenes"], mean["of_scenes"]) == ("mean", None, 5, 2, 2)
    assert mean["psnr"] == 27 and mean["psnr_std"] == pytest.approx(math.sqrt(11) / 2)
    single = rows_of(tmp_path, suite(*runs[:-2]))[-1]
    assert single["psnr"] == 25.5 and single["psnr_std"] is None, "a scene with one run has no deviation"


def test_the_deviation_of_a_data_set_is_that_of_suites_of_one_run_each(tmp_path):
    """The formula against simulation: scenes with deviations 1 and 3, many suites of one run of each."""
    rng = np.random.default_rng(2)
    simulated = ((rng.normal(20, 1, 100_000) + rng.normal(30, 3, 100_000)) / 2).std()
    values = {"oak": rng.normal(20, 1, 300), "elm": rng.normal(30, 3, 300)}
    runs = [
        make_run(scene, psnr=value, seed=seed, curves=None)
        for scene in values
        for seed, value in enumerate(values[scene].tolist())
    ]
    mean = make_rows(read_results(write(tmp_path, suite(*runs)) / "suite.json"))[-1]
    # Its standard error is 4 %.
    assert mean.std["psnr"] == pytest.approx(simulated, rel=0.15)


def test_nothing_is_averaged_over_what_happens_to_be_measured(tmp_path):
    no_lpips = {"SSIM": 0.8, "PSNR": 27.0, "LPIPS": None}
    content = suite(make_run("oak"), make_run("oak", seed=1, quality=no_lpips), make_run("elm"))
    elm, oak, mean = rows_of(tmp_path, content)
    assert [row["lpips"] for row in (elm, oak, mean)] == [0.2, None, None]
    assert mean["psnr"] == 25.5
    assert lines_with(report_of(tmp_path, content), "| oak |", "| - |")


def test_budgets_have_rows_of_their_own_from_the_largest(tmp_path):
    runs = [
        make_run(scene, budget_name=name, budget=budget, psnr=budget / 100)
        for name, budget in (("x0.1", 100), ("normal", 1000))
        for scene in ("oak", "elm")
    ]
    rows = rows_of(tmp_path, suite(*runs))
    shown = [(row["scene"], row["budget_name"], row["psnr"]) for row in rows]
    assert shown == [
        *(("elm", "normal", 10.0), ("oak", "normal", 10.0), (None, "normal", 10.0)),
        *(("elm", "x0.1", 1.0), ("oak", "x0.1", 1.0), (None, "x0.1", 1.0)),
    ]


def test_two_numbers_under_one_name_of_a_budget_are_no_repeats(tmp_path):
    rows = rows_of(tmp_path, suite(make_run("oak"), make_run("oak", budget=900, seed=1), make_run("elm")))
    assert [(row["scene"], row["budget"], row["runs"]) for row in rows] == [
        *(("elm", 1000, 1), ("oak", 1000, 1), ("oak", 900, 1)),
    ]


def test_scenes_of_no_data_set_have_no_mean(tmp_path):
    assert [row["scene"] for row in rows_of(tmp_path, suite(make_run("oak", None), make_run("elm", None)))] == [
        *("elm", "oak"),
    ]


def test_the_order_of_the_runs_in_the_file_does_not_matter(tmp_path):
    runs = [
        *whole_set("deep-blending"),
        make_run("oak"),
        make_run("oak", seed=1),
        make_run("train", "tanks-and-temples"),
    ]
    texts = [report_of(tmp_path, suite(*order)).replace("date", "") for order in (runs, runs[::-1])]
    assert texts[0] == texts[1]


def test_a_complete_data_set_stands_beside_the_published_rows(tmp_path):
    text = report_of(tmp_path, suite(*whole_set("deep-blending")))
    assert "mean of all 2 scenes" in text
    assert lines_with(text, "| GNS | arXiv:2511.16980 | 0.914 | 30.15 | 0.233 | 450,000 | 9.4 | - |")
    assert lines_with(text, "| Improved-GS | arXiv:2508.12313 | 0.911 | 30.23 | 0.244 | 450,000 | 6.8 | - |")
    assert lines_with(text, "| 3DGS | arXiv:2308.04079 | 0.904 | 29.56 | 0.244 | 2,819,180 | 32.5 | - |")
    assert lines_with(text, "this suite, full, normal", "| 0.800 | 25.00 | 0.200 | 1,000 | 2.0 | 0.25 |")
    assert "post-hoc" not in text


def test_compressed_models_stand_beside_the_post_hoc_rows(tmp_path):
    small = {"file": "compact.gsz", "mb": 0.0125, "SSIM": 0.79, "PSNR": 24.5, "LPIPS": 0.21}
    text = report_of(tmp_path, suite(*whole_set("tanks-and-temples", compressed=small)))
    assert lines_with(text, "| post-hoc", "| 0.818 | 23.42 | 0.230 | 224,698 | - | 8.01 |")
    assert lines_with(text, "compressed**", "| 0.790 | 24.50 | 0.210 | - | - | 0.01 |")
    row = rows_of(tmp_path, suite(make_run("oak", compressed=small)))[0]
    assert (row["compressed_mb"], row["compressed_psnr"], row["compressed_lpips"]) == (0.0125, 24.5, 0.21)


def test_protocols_are_never_mixed(tmp_path):
    """GNS measured Mip-NeRF 360 resized: with canonical figures there is a reason instead of a table."""
    canonical = report_of(tmp_path / "a", suite(*whole_set("mip-nerf-360")))
    resized = report_of(tmp_path / "b", suite(*whole_set("mip-nerf-360"), protocol="resized"))
    assert "- protocol: canonical" in canonical and "Mip-NeRF 360, protocol canonical" in canonical
    assert "28.13" not in canonical and "`--protocol resized`" in canonical
    assert lines_with(resized, "| GNS |", "28.13") and "use the protocol resized" in resized


def test_an_incomplete_data_set_or_scaled_steps_stand_beside_nothing(tmp_path):
    text = report_of(tmp_path, suite(*whole_set("mip-nerf-360")[:2], protocol="resized"))
    assert "mean of 2 of 9 scenes" in text and "| GNS |" not in text
    text = report_of(tmp_path, suite(*whole_set("deep-blending"), iterations=600))
    assert "scaled to 600 instead of 30,000 steps" in text and "| GNS |" not in text
    extra = suite(*whole_set("deep-blending"), make_run("shed", "deep-blending"))
    assert "| GNS |" not in report_of(tmp_path, extra)


def test_what_failed_or_is_missing_is_listed_with_its_reason(tmp_path):
    absent = {"scene": "ash", "dataset": "yard", "where": "https://example.org/yard.zip"}
    runs = [
        make_run("oak"),
        make_run("elm"),
        failed("fir", "train.py ended with 1 | no memory"),
        failed("elm", "x", seed=1),
    ]
    text = report_of(tmp_path, suite(*runs, missing=[absent]))
    assert "- fir (yard), budget normal, seed 0: failed: train.py ended with 1 \\| no memory" in text
    assert "- ash (yard): not found: https://example.org/yard.zip" in text
    assert "mean of 2 of 4 scenes" in text and "- runs: 2 done, 2 failed; scenes missing: 1" in text
    assert [row["scene"] for row in rows_of(tmp_path, suite(*runs, missing=[absent]))] == ["elm", "oak", None]


def test_a_suite_in_which_everything_failed_has_a_report(tmp_path):
    text = report_of(tmp_path, suite(failed("oak", "no"), missing=[]), plots=True)
    assert "No run is finished" in text and "failed: no" in text
    assert (tmp_path / "report" / "report.csv").read_text().startswith("row,dataset,scene,")


def test_the_head_says_how_the_figures_came_about(tmp_path):
    other = {"cpu": "another", "cores": 8, "gpu": "a card", "torch": "2.13.0"}
    folder = write(tmp_path, suite(make_run("oak"), make_run("elm", machine=other), jobs=2))
    os.utime(folder / "suite.json", (0, 0))
    write_report(folder, plots=False)
    text = (folder / "report" / "report.md").read_text()
    for line in (
        "    python test.py --data data",
        "- schedule: full",
        "- commit: 0123abc",
        "- machine: cpu another, cores 8, gpu a card, torch 2.13.0",
        "- date: 1970-01-01 00:00 UTC",
        "- Up to 2 runs ran at the same time and slowed each other down.",
        "Frames/s are of images of this size, in px: 640x480 elm, oak.",
    ):
        assert line in text.splitlines(), line
    assert "without loading, evaluating and saving" in text


def test_the_json_alone_gives_the_same_report(tmp_path):
    content = suite(
        *whole_set("deep-blending"), make_run("oak"), make_run("oak", seed=1, psnr=26.0), failed("elm", "no")
    )
    folders = [write(tmp_path / name, content) for name in ("first", "second")]
    for folder in folders:
        os.utime(folder / "suite.json", (1e9, 1e9))
        write_report(folder, plots=False)
    for name in ("report.md", "report.csv"):
        first, second = ((folder / "report" / name).read_bytes() for folder in folders)
        assert first == second


def test_the_csv_holds_the_rows(tmp_path):
    content = suite(*whole_set("deep-blending"), make_run("oak", fps=None))
    rows = rows_of(tmp_path, content)
    report_of(tmp_path, content)
    with (tmp_path / "report" / "report.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows) == 4
    for line, row in zip(read, rows, strict=True):
        assert list(line) == list(row) and set(FIGURES) <= set(row)
        for name, value in row.items():
            assert line[name] == "" if value is None else type(value)(line[name]) == value
    for path in (tmp_path / "report").iterdir():
        assert not re.search(r"\b(NaN|nan|inf|Infinity|None)\b", path.read_text())


def test_no_message_breaks_the_text(tmp_path):
    text = report_of(tmp_path, suite(failed("oak", "a|b [x](y) <img>\n`c`")))
    assert lines_with(text, r"failed: a\|b \[x\](y) &lt;img&gt; \`c\`")


def test_sheets_are_embedded_where_they_are(tmp_path):
    sheet = "oak/full-normal-seed0/the views.png"
    content = suite(
        make_run("oak", views={"sheet": sheet}),
        make_run("oak", budget_name="x2", budget=2000, views={"sheet": "oak/gone.png"}),
    )
    (tmp_path / sheet).parent.mkdir(parents=True)
    (tmp_path / sheet).write_bytes(b"a picture")
    assert "oak (yard), budget x2, seed 0\n\n- the picture is missing" in report_of(tmp_path, content)
    text = report_of(tmp_path, suite(*content["runs"][:1]))
    assert "](../oak/full-normal-seed0/the%20views.png)" in text


def test_plots_are_pictures_with_something_in_them(tmp_path):
    pytest.importorskip("matplotlib")
    small = {"file": "compact.gsz", "mb": 0.01, "SSIM": 0.79, "PSNR": 24.5, "LPIPS": None}
    runs = [
        make_run(scene, budget_name=name, budget=budget, psnr=20 + budget / 1000, seed=seed, compressed=small, **more)
        for name, budget in (("x0.1", 100), ("normal", 1000))
        for scene, more in (("oak", {}), ("elm", {"curves": None}))
        for seed in (0, 1)
    ]
    text = report_of(tmp_path, suite(*runs), plots=True)
    names = re.findall(r"\]\(([\w.%-]+\.png)\)", text)
    assert names == ["budget-yard-full.png", "size-yard-full.png", "curves-yard-oak.png"]
    for name in names:
        picture = cv2.imread(str(tmp_path / "report" / name))
        assert min(picture.shape[:2]) > 400 and picture[0, 0].tolist() == [255, 255, 255]
        dark, colours = (picture.max(2) < 128).mean(), np.unique(picture[::2, ::2].reshape(-1, 3), axis=0)
        assert dark > 0.002 and len(colours) > 50, name


def test_plots_do_without_what_was_not_measured(tmp_path):
    """No selection, gaps in the curves, no curves at all, no PSNR: fewer panels or plots, no error."""
    pytest.importorskip("matplotlib")
    curves = {"iteration": [100, 200, 300], "loss": [0.2, None, 0.1], "psnr": [None] * 3, "gaussians": [10, 0, 30]}
    nothing = {"SSIM": None, "PSNR": None, "LPIPS": None}
    runs = [make_run("oak", curves=curves, quality=nothing, mb=None), make_run("elm", curves=None, quality=nothing)]
    text = report_of(tmp_path, suite(*runs), plots=True)
    assert re.findall(r"\]\(([\w-]+)\.png\)", text) == ["curves-yard-oak"]


def test_without_matplotlib_there_are_tables_and_a_line_says_so(tmp_path, monkeypatch):
    plots = "compact_splats.suite.plots"
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib" or name == plots]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = write_report(write(tmp_path, suite(make_run("oak"))))
    assert len(lines_with(said, "Plots are left out", "matplotlib")) == 1
    text = (tmp_path / "report" / "report.md").read_text()
    assert lines_with(text, "Plots are left out") and lines_with(text, "| oak |", "25.00")


def test_the_user_is_shown_the_table(tmp_path):
    said = write_report(write(tmp_path, suite(make_run("oak"), make_run("elm", psnr=5.0))), plots=False)
    assert said.splitlines()[0] == "yard, protocol canonical"
    assert [line.split()[0] for line in said.splitlines()[1:5]] == ["scene", "elm", "oak", "mean"]
    assert len({line.index(value) for line, value in zip(said.splitlines()[2:4], (" 5.00", "25.00"), strict=True)}) == 1
    assert said.endswith("report.md: 3 rows, 0 plots.")


@pytest.mark.parametrize(
    "content, found",
    [
        ("", "expected the results of a suite as JSON"),
        ("[" * 100_000, "expected the results of a suite as JSON"),
        ("[]", "does not hold the results of a suite in format 1"),
        ('{"test": {"ours_30000": {}}}', "does not hold the results of a suite in format 1"),
        (suite(format=2), "does not hold the results of a suite in format 1"),
        (suite(runs={}), "is damaged: move it away"),
        (suite("oak"), "is damaged: move it away"),
        (suite(command=MISSING), "is damaged (KeyError: 'command'): move it away"),
        (suite({"folder": "oak"}), "is damaged (KeyError: 'state'): move it away"),
        (suite({**make_run("oak"), "quality": None}), "is damaged (TypeError: "),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_and_nothing_is_written(tmp_path, content, found):
    folder = write(tmp_path, content)
    with pytest.raises(InputError, match=re.escape(found)) as error:
        write_report(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 and "suite.json" in str(error.value)
    assert {path.name for path in folder.iterdir()} == {"suite.json"}


def test_the_script_ends_in_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "compact_splats.suite.report", tmp_path / "nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


def test_published_scenes_are_those_of_the_table_of_budgets():
    """And GNS's number of Gaussians is the mean of their budgets."""
    budgets = read_budgets(ROOT / "budget.txt")
    for name, known in DATA_SETS.items():
        lines = [line for line in budgets.values() if line.dataset == name]
        assert {line.scene for line in lines} == set(known.scenes)
        gns = TRAINED[name][-1]
        assert (gns.method, gns.gaussians) == ("GNS", round(statistics.fmean(line.budget for line in lines)))
        assert 35 < 1e6 * COMPRESSED[name].mb / COMPRESSED[name].gaussians < 40  # bytes
