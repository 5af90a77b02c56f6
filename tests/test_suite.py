"""test.py and test-fast.py: a sweep makes each run once, even if it is interrupted, and never mixes protocols.

The stages run in this process, which takes a tenth of the time. tests/test_suite_process.py tests the programs.
"""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from suite_cases import (
    PLY,
    STAGES,
    STEPS,
    TABLE,
    InProcess,
    Killed,
    entries,
    figures,
    files_in,
    is_alive,
    quality_of,
    wait_for,
    write_table,
)  # fmt: skip

from compact_splats.scene.ply import read as read_ply
from compact_splats.suite import execute, process, report, stages
from compact_splats.suite.command import run_suite
from compact_splats.suite.results import read_results
from compact_splats.training.checkpoint import Checkpoints
from compact_splats.training.densification import Densification
from compact_splats.utils.errors import InputError
from compact_splats.utils.lock import FolderLock

ROOT = Path(__file__).parent.parent


@pytest.fixture
def programs(monkeypatch) -> InProcess:
    """Stages run in this process."""
    in_process = InProcess()

    monkeypatch.setattr(stages, "run_python", in_process)
    monkeypatch.setattr(report, "write_report", functools.partial(report.write_report, plots=False))  # they take long
    return in_process


@pytest.fixture
def words(data_dir, tmp_path) -> list[str]:
    """The command line of the sweeps below."""
    table, out = str(write_table(tmp_path)), str(tmp_path / "out")
    flags = ["--iterations", str(STEPS), "--threads", "1"]
    return ["--data", str(data_dir), "--output", out, "--budget-file", table, *flags]


@pytest.fixture
def sweep(words, programs, tmp_path):
    """Run a sweep and give its exit code."""

    def run(*flags: str, schedule: str = "full") -> int:
        return run_suite([*words, "--quiet", *flags], schedule)

    return run


# ---- a sweep ----


@pytest.fixture(scope="module")
def swept_once() -> list[Path]:
    """Filled by the first test that needs it: the output folder of a sweep over two scenes. Read only."""
    return []


@pytest.fixture
def swept(swept_once, sweep, programs, tmp_path, tmp_path_factory) -> Path:
    """A copy of the output folder of a finished sweep over two scenes."""
    out = tmp_path / "out"
    if swept_once:
        return shutil.copytree(swept_once[0], out)
    assert sweep() == 0
    assert programs.taken() == 2 * STAGES
    swept_once.append(shutil.copytree(out, tmp_path_factory.mktemp("swept") / "out"))
    return out


def test_a_sweep_leaves_an_entry_of_what_each_run_left(sweep, tmp_path):
    assert sweep("--repeats", "2", "--scenes", "bicycle") == 0
    out = tmp_path / "out"
    runs = entries(out)
    assert list(runs) == ["bicycle/full-normal-seed0", "bicycle/full-normal-seed1"]
    for seed, (name, run) in enumerate(runs.items()):
        assert run["state"] == "done" and run["error"] is None and run["seed"] == seed
        assert run["quality"] == quality_of(out / name, f"ours_{STEPS}") and run["quality"]["PSNR"] > 5
        assert run["gaussians"] == run["budget"] == 200 == len(read_ply(out / name / PLY)["means"])
        assert run["mb"] == (out / name / PLY).stat().st_size / 1e6
        assert run["fps"] > 0 and run["fps_size"] == [48, 32] and run["peak_mb"] > 0 and run["minutes"] > 0
        assert run["curves"]["iteration"] == [STEPS] and run["curves"]["gaussians"] == [200]
        assert (out / run["views"]["sheet"]).stat().st_size > 0
        assert (
            run["commands"]["train"].startswith("python train.py -s ") and f"--seed {seed}" in run["commands"]["train"]
        )
    assert runs["bicycle/full-normal-seed0"]["quality"] != runs["bicycle/full-normal-seed1"]["quality"]


def test_the_file_says_how_the_runs_came_about_and_the_report_reads_it(swept, words, capsys):
    content = json.loads((swept / "suite.json").read_text())
    assert content["command"].startswith("python test.py --data ") and content["iterations"] == STEPS
    assert (content["protocol"], content["schedule"]) == ("canonical", "full")
    assert content["machine"]["cores"] >= 1 and content["machine"]["torch"]
    assert [scene["scene"] for scene in content["missing"]] == ["playroom"]
    assert len(read_results(swept / "suite.json").done()) == 2
    assert "bicycle" in (swept / "report" / "report.md").read_text()


def test_the_fast_sweep_trains_by_the_fast_schedule(sweep, tmp_path):
    assert sweep("--scenes", "train", schedule="fast") == 0
    config = json.loads((tmp_path / "out" / "train" / "fast-fast-seed0" / "config.json").read_text())
    assert (config["schedule"], config["final_budget"], config["sh_rest_lr"]) == ("fast", 60, 0.02)
    assert config["eval"] and config["images"] == "images"


def test_lines_tell_what_is_done_and_what_is_left(words, programs, swept, capsys):
    capsys.readouterr()
    assert run_suite(words, "full") == 0
    printed = capsys.readouterr()
    assert "scene playroom of deep-blending is not in" in printed.out
    lines = [line for line in printed.out.splitlines() if line.startswith(("bicycle/", "train/"))]
    assert "200 Gaussians" in lines[0] and " dB" in lines[0] and "1 to go" in lines[0] and "0 to go" in lines[1]
    assert "report.md" in printed.out and not printed.err


def test_several_runs_at_once_give_the_same_table(sweep, programs, tmp_path):
    """The runs wait for each other in their first stage."""
    meeting = threading.Barrier(2)

    def meet(words) -> None:
        if "--eval" in words:
            meeting.wait(60)

    assert sweep() == 0
    alone = figures(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    programs.hook = meet
    original, guard = InProcess._call, threading.Lock()

    def one_at_a_time(name, argv):  # torch and argv belong to the whole process
        with guard:
            original(name, argv)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InProcess, "_call", staticmethod(one_at_a_time))
        assert sweep("--jobs", "2") == 0
    assert figures(tmp_path / "out") == alone and list(entries(tmp_path / "out")) == list(alone)


@pytest.mark.parametrize(("gpus", "expected"), [(["4", "7"], {"4", "7"}), (["4"], {None}), ([], {None})])
def test_runs_at_once_get_a_gpu_each_where_there_are_several(sweep, monkeypatch, gpus, expected):
    """The runs wait for each other."""
    meeting, given = threading.Barrier(2), []

    def run_job(job, gpu):
        meeting.wait(60)
        given.append(gpu)
        return stages.failed_entry(job, "not run")

    monkeypatch.setattr(execute, "run_job", run_job)
    monkeypatch.setattr(execute, "visible_gpus", lambda: gpus)
    assert sweep("--jobs", "2", "--repeats", "2") == 1
    assert set(given) == expected and len(given) == 4


# ---- what is finished, and what is not ----


def test_what_is_finished_is_not_done_again(sweep, programs, swept):
    before = files_in(swept)
    assert sweep() == 0
    assert programs.taken() == []
    assert entries(swept) == {run["folder"]: run for run in json.loads(before["suite.json"])["runs"]}
    assert {name: data for name, data in files_in(swept).items() if name.startswith(("bicycle", "train"))} == {
        name: data for name, data in before.items() if name.startswith(("bicycle", "train"))
    }


def test_threads_jobs_and_places_do_not_make_work_unfinished(words, sweep, programs, swept, data_dir, tmp_path):
    shutil.move(data_dir, tmp_path / "data elsewhere")
    shutil.move(swept, tmp_path / "out elsewhere")
    shutil.copytree(ROOT / "tests" / "cuda_emulation", swept)  # something else stands there now
    moved = ["--data", str(tmp_path / "data elsewhere"), "--output", str(tmp_path / "out elsewhere")]
    assert sweep(*moved, "--threads", "2", "--jobs", "2") == 0
    assert programs.taken() == []


def replace_by(name: str, other: str):
    def change(out: Path, run: Path) -> None:
        shutil.copy(out / "train" / "full-normal-seed0" / other, run / name)

    return change


def remove(name: str):
    return lambda out, run: (run / name).unlink()


def note_a_view_more(out: Path, run: Path) -> None:
    pictures = run / "test" / f"ours_{STEPS}"
    for kind in ("renders", "gt"):
        shutil.copy(pictures / kind / "00000.png", pictures / kind / "00009.png")


def write_text(name: str, text: str):
    return lambda out, run: (run / name).write_text(text)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (replace_by("results.json", "results.json"), ["metrics"]),
        (remove("per_view.json"), ["metrics"]),
        (replace_by("views.png", "views.png"), ["compact_splats.suite.comparison"]),
        (write_text("timing.json", "{}"), ["render time"]),
        (note_a_view_more, ["render"]),
        (replace_by(f"test/ours_{STEPS}/renders/00000.png", f"test/ours_{STEPS}/renders/00001.png"), ["render"]),
        (remove("summary.json"), STAGES),
        (replace_by(PLY, PLY), STAGES),
        (remove("stages.json"), STAGES),
        (write_text("stages.json", '{"format": 1, "stages": {"train": []}}'), STAGES),
        (write_text("stages.json", "[" * 100_000), STAGES),
    ],
)  # fmt: skip
def test_files_of_another_run_are_noticed_and_made_again(sweep, programs, swept, change, again):
    """A file counts only if its stage wrote it; the stages of the other scene do not run again."""
    before = figures(swept)
    change(swept, swept / "bicycle" / "full-normal-seed0")
    assert sweep() == 0
    assert programs.taken() == again
    assert figures(swept) == before


def test_another_budget_in_the_table_trains_again_and_only_that_scene(sweep, programs, swept, tmp_path):
    (tmp_path / "budget.txt").write_text(TABLE.replace("200", "210"))
    assert sweep() == 0
    assert programs.taken().count("train") == 1 and entries(swept)["bicycle/full-normal-seed0"]["gaussians"] == 210


def test_photos_that_come_later_train_again(sweep, programs, data_dir, tmp_path):
    """The digest of a scene changes with its files."""
    photos = data_dir / "360_v2" / "bicycle" / "images_4"
    late = sorted(photos.iterdir())[-1]
    late.rename(tmp_path / late.name)
    sweep("--scenes", "bicycle")
    programs.taken()
    (tmp_path / late.name).rename(late)
    assert sweep("--scenes", "bicycle") == 0
    assert programs.taken()[0] == "train"


def test_a_training_does_not_continue_from_another_run_in_its_folder(sweep, programs, swept, data_dir, tmp_path):
    """It is interrupted before its first step. The finished run in its folder had the same flags and other photos."""
    photos = sorted((data_dir / "360_v2" / "bicycle" / "images_4").iterdir())
    shutil.copy(photos[1], photos[2])
    checkpoint = swept / "bicycle" / "full-normal-seed0" / "checkpoints" / "of-another-run"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    programs.kill_after = 0
    with pytest.raises(Killed):
        sweep("--scenes", "bicycle")
    assert not checkpoint.parent.exists()
    programs.kill_after = None
    assert sweep("--scenes", "bicycle") == 0
    continued = figures(swept)["bicycle/full-normal-seed0"]
    assert sweep("--scenes", "bicycle", "--output", str(tmp_path / "new")) == 0
    assert figures(tmp_path / "new") == {"bicycle/full-normal-seed0": continued}


def test_compression_joins_what_is_finished(sweep, programs, swept):
    assert sweep("--compress", "--scenes", "train") == 0
    assert programs.taken() == ["compress", "render", "metrics"]
    run, other = entries(swept).values()
    size = (swept / run["compressed"]["file"]).stat().st_size / 1e6
    quality = quality_of(swept / run["folder"], "compact")
    assert run["compressed"] == {"file": f"{run['folder']}/compressed/compact.gsz", "mb": size, **quality}
    assert size < run["mb"] and quality != run["quality"] and other["compressed"] is None


# ---- interrupted ----


@pytest.mark.parametrize("stage", [0, 1, 2, 3, 4, 7])
def test_a_sweep_that_was_killed_continues_with_the_same_result(sweep, programs, swept, tmp_path, stage):
    """Killed in each stage, after it has written its files and before its record."""
    uninterrupted = figures(swept)
    out = tmp_path / "killed"

    programs.kill_after = stage + 1
    with pytest.raises(Killed):
        sweep("--output", str(out))
    assert len(entries(out)) == stage // len(STAGES)  # what the file holds is what was finished
    programs.kill_after = None
    assert sweep("--output", str(out)) == 0
    assert len(programs.ran) == 2 * len(STAGES) + 1  # the stage that was killed is the only one to run twice
    assert figures(out) == uninterrupted


def test_a_training_that_was_killed_continues_where_it_was(sweep, programs, swept, tmp_path, monkeypatch):
    """From its newest checkpoint, with the same result."""
    uninterrupted, out = figures(swept), tmp_path / "killed"
    save, steps = Checkpoints.save, []

    def save_and_die(self: Checkpoints, *args) -> None:
        save(self, *args)
        raise Killed

    def step_noted(self: Densification, step: int, *others) -> tuple[int, int]:
        steps.append(step)
        return edit(self, step, *others)

    edit = Densification.edit
    monkeypatch.setattr(Checkpoints, "is_due", lambda self, step: step == 7)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "save", save_and_die)
        sweep("--output", str(out))
    monkeypatch.setattr(Densification, "edit", step_noted)
    assert sweep("--output", str(out)) == 0
    assert steps[0] == 8 and figures(out) == uninterrupted


@pytest.mark.skipif(sys.platform != "linux", reason="finds the programs in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_is_ended_by_a_signal_leaves_no_program_and_a_whole_file(words, tmp_path, number):
    """The real scripts, in the middle of a training that would take minutes."""
    long = [*words, "--scenes", "bicycle", "--iterations", "1000000"]
    sweep = subprocess.Popen([sys.executable, ROOT / "test.py", *long], cwd=tmp_path, stderr=subprocess.PIPE)
    log = tmp_path / "out" / "bicycle" / "full-normal-seed0" / "suite.log"
    program = wait_for(lambda: log.exists() and b"$ python" in log.read_bytes() and child_of(sweep.pid))
    sweep.send_signal(number)
    printed = sweep.communicate(timeout=120)[1].decode()
    if number != signal.SIGKILL:
        assert sweep.returncode == 130 and printed == "stopped; the same command continues from here\n"
    wait_for(lambda: not is_alive(program))
    assert entries(tmp_path / "out") == {}
    with FolderLock(tmp_path / "out"):
        pass


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals can't be sent to one thread here")
def test_a_signal_is_heard_that_does_not_wake_the_thread_that_waits(sweep, programs, capsys):
    told = []

    def ask_and_wait(words):
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        told.append(process._stopping.wait(20))

    programs.hook = ask_and_wait
    assert sweep("--scenes", "bicycle") == 130 and all(told)
    assert capsys.readouterr().err.endswith("stopped; the same command continues from here\n")


def child_of(pid: int) -> int | None:
    """The training that a sweep has started."""
    text = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(word) for path in text for word in path.read_text().split()]
    return next((each for each in children if b"train.py" in Path(f"/proc/{each}/cmdline").read_bytes()), None)


# ---- what can be wrong ----


@pytest.mark.parametrize("part", ["images_4", "sparse/0/cameras.bin", "sparse/0/images.bin"])
def test_a_scene_that_fails_is_told_in_one_line_and_the_others_go_on(sweep, programs, data_dir, tmp_path, capfd, part):
    whole = data_dir / "360_v2" / "bicycle" / part
    whole.rename(tmp_path / "late")
    capfd.readouterr()
    assert sweep() == 1
    # Not by lines: the bars of the next run, a program of its own otherwise, may stand before it.
    (error,) = re.findall(r"error: [^\r\n]*?\(\d+ to go\)", capfd.readouterr().err)
    assert error.startswith("error: bicycle/full-normal-seed0: train: ") and error.endswith("(1 to go)")
    failed, done = entries(tmp_path / "out").values()
    assert (failed["state"], done["state"]) == ("failed", "done") and str(data_dir) in failed["error"]
    assert "bicycle" in (tmp_path / "out" / "report" / "report.md").read_text()
    programs.taken()
    (tmp_path / "late").rename(whole)
    assert sweep() == 0
    assert programs.taken() == STAGES


def test_a_stage_that_fails_is_tried_again_and_those_before_it_are_not(sweep, programs, tmp_path):
    programs.hook = lambda words: "no luck" if "metrics.py" in words[0] else None
    assert sweep("--scenes", "train") == 1
    assert entries(tmp_path / "out")["train/full-normal-seed0"]["error"] == "metrics: no luck"
    assert programs.taken() == ["train", "render", "metrics"]
    programs.hook = lambda words: None
    assert sweep("--scenes", "train") == 0
    assert programs.taken() == ["metrics", "render time", "compact_splats.suite.comparison"]


def test_a_stage_that_writes_no_file_has_failed(sweep, programs, tmp_path):
    results = tmp_path / "out" / "train" / "full-normal-seed0" / "results.json"
    programs.hook = lambda words: results.unlink() if "metrics.py" in words[0] else None
    assert sweep("--scenes", "train") == 1
    (run,) = entries(tmp_path / "out").values()
    assert run["error"] == "metrics: exit code 0, but results.json is missing"


def test_a_folder_that_cannot_be_written_fails_its_run_alone(sweep, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bicycle").write_text("mine")
    assert sweep() == 1
    assert [run["state"] for run in entries(tmp_path / "out").values()] == ["failed", "done"]
    assert (tmp_path / "out" / "bicycle").read_text() == "mine"


def test_missing_scenes_are_an_error_only_where_they_are_named_or_all(sweep, programs, data_dir):
    assert sweep() == 0
    assert sweep("--scenes", "train", "playroom") == 1
    with pytest.raises(InputError, match="none of the scenes playroom"):
        sweep("--scenes", "playroom")
    shutil.rmtree(data_dir / "360_v2")
    shutil.rmtree(data_dir / "tandt_db")
    with pytest.raises(InputError, match="none of the scenes bicycle, train, playroom"):
        sweep()


def test_an_unknown_scene_brings_the_closest_known_one(sweep):
    with pytest.raises(InputError, match="did you mean bicycle"):
        sweep("--scenes", "bycicle")


def test_a_second_sweep_into_a_folder_is_refused_and_changes_nothing(sweep, programs, swept):
    before = files_in(swept)
    with FolderLock(swept):
        before[".lock"] = f"process {os.getpid()} ".encode()
        with pytest.raises(InputError, match="in use by"):
            sweep("--budgets", "0.5")
        after = files_in(swept)
    assert after.pop(".lock").startswith(before.pop(".lock"))
    assert after == before and programs.taken() == []


@pytest.mark.parametrize(
    ("flags", "schedule"), [(["--protocol", "resized"], "full"), (["--iterations", "13"], "full"), ([], "fast")]
)
def test_a_folder_of_other_runs_is_refused_and_nothing_mixed(sweep, programs, swept, flags, schedule):
    before = files_in(swept)
    with pytest.raises(InputError, match="--output"):
        sweep(*flags, "--scenes", "train", schedule=schedule)
    assert {**files_in(swept), ".lock": b""} == {**before, ".lock": b""} and programs.taken() == []


def test_runs_that_are_not_asked_for_today_are_kept(sweep, swept):
    before = entries(swept)
    assert sweep("--budgets", "0.5", "--scenes", "train") == 0
    after = entries(swept)
    assert list(after) == ["train/full-x0.5-seed0", *before]
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2, "runs": []}', '{"format": 1, "runs": [{}]}'])
def test_a_broken_file_is_refused_and_can_be_made_again_without_a_run(sweep, programs, swept, text):
    before = figures(swept)
    (swept / "suite.json").write_text(text)
    with pytest.raises(InputError, match="move it away"):
        sweep()
    assert (swept / "suite.json").read_text() == text
    (swept / "suite.json").unlink()
    assert sweep() == 0
    assert programs.taken() == [] and figures(swept) == before


# ---- dry run ----


def test_a_dry_run_shows_what_is_missing_and_writes_nothing(sweep, programs, words, swept, tmp_path, capsys):
    (swept / "bicycle" / "full-normal-seed0" / "results.json").unlink()
    before = files_in(tmp_path)
    assert sweep("--dry-run", "--budgets", "0.5,1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "bicycle/full-x0.5-seed0: 100 Gaussians, 5 stages to run",
        "train/full-x0.5-seed0: 50 Gaussians, 5 stages to run",
        "bicycle/full-normal-seed0: 200 Gaussians, 1 stages to run",
        "train/full-normal-seed0: 100 Gaussians, finished",
    ]
    commands = [line.strip() for line in lines if line.startswith(" ")]
    assert len(commands) == 11 and commands[-1] == f"python metrics.py -m {swept}/bicycle/full-normal-seed0"
    assert programs.taken() == [] and files_in(tmp_path) == before


def test_a_dry_run_makes_no_folder(sweep, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert sweep("--dry-run") == 0
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("script", "flags", "code"),
    [("test.py", ["--dry-run", "--scenes", "train", "playroom"], 1), ("test-fast.py", ["--jobs", "0"], 2)],
)
def test_the_scripts_end_with_the_exit_code_of_what_happened(words, tmp_path, script, flags, code):
    done = subprocess.run([sys.executable, ROOT / script, *words, *flags], cwd=tmp_path, capture_output=True)
    assert done.returncode == code
    assert (done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1) == (code == 2)
