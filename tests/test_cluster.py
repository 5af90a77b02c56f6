"""Jobs on a Ray cluster: lost jobs start again and continue, a failed job stops no other, errors are one line."""

import functools
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from suite_cases import STEPS as SUITE_STEPS
from suite_cases import figures, is_alive, wait_for, write_table

from compact_splats.suite import cluster, execute, on_node, report, stages
from compact_splats.suite.cluster import run_on_ray
from compact_splats.suite.command import run_suite
from compact_splats.suite.process import run_python
from compact_splats.suite.results import read_results
from compact_splats.utils.errors import InputError

STEPS = 6
MEMORY = 80_000_000  # bytes of each node's object store


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[SimpleNamespace]:
    """A cluster of two nodes with a CPU each, beside a head that takes no jobs."""
    ray = pytest.importorskip("ray", reason="requirements-ray.txt is not installed")
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # nodes can't import a test
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_agent_register_timeout_ms="100000")  # 15 s: too short under load
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    add = lambda: nodes.add_node(num_cpus=1, object_store_memory=MEMORY)  # noqa: E731
    try:
        nodes = Cluster(initialize_head=True, head_node_args=head)
        workers = [add(), add()]
    except Exception as error:  # of no kind of its own: Ray gives each process 30 s, whatever else the machine does
        pytest.skip(f"Ray does not start here: {error}")
    yield SimpleNamespace(address=nodes.address, workers=workers, add=add, remove=nodes.remove_node)
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def joined(two_nodes, monkeypatch) -> SimpleNamespace:
    """The cluster by its address in RAY_ADDRESS; whether it can be joined is not checked again."""
    monkeypatch.setenv("RAY_ADDRESS", two_nodes.address)
    monkeypatch.setattr(cluster, "_check_address", lambda address: None)
    return two_nodes


@pytest.fixture
def make_jobs(tmp_path) -> Callable[..., list[SimpleNamespace]]:
    (tmp_path / "scene").mkdir()

    def make(*names: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=n, source=tmp_path / "scene", folder=tmp_path / "out" / n) for n in names]

    return make


def run(function: Callable, jobs: list, **changes) -> Iterator:
    return run_on_ray(function, jobs, **{"address": "auto", "cpus": 1, "gpus": 0, "retries": 2, **changes})


def work(job: SimpleNamespace) -> str:
    """Write steps with the process of each; one job is killed in the middle, and one fails."""
    if job.name == "fails":
        raise ValueError("no such luck")
    job.folder.mkdir(parents=True, exist_ok=True)
    notes = job.folder / "steps"
    done = len(notes.read_text().splitlines()) if notes.exists() else 0
    for step in range(done, STEPS):
        with notes.open("a") as file:
            file.write(f"{step} {os.getpid()}\n")
        if job.name == "killed" and (done, step) == (0, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
    return job.name


def test_a_killed_worker_s_job_goes_on_where_it_was_and_one_that_fails_stops_no_other(joined, make_jobs):
    jobs = make_jobs("killed", "fails", "a", "b", "c")
    results = {job.name: result for job, result in run(work, jobs)}
    assert isinstance(results.pop("fails"), ValueError)
    assert results == {name: name for name in ("killed", "a", "b", "c")}
    for job in jobs:
        if job.name != "fails":
            steps, processes = zip(*map(str.split, (job.folder / "steps").read_text().splitlines()), strict=True)
            assert steps == tuple(map(str, range(STEPS))), "each step once, in order"
            assert len(set(processes)) == (2 if job.name == "killed" else 1)
    assert not list(jobs[0].folder.parent.glob(".ray-*")), "nothing is left behind"


def test_results_come_as_they_are_ready(joined, make_jobs):
    def wait(job):
        others = job.folder.parent / "last-may-end"
        while job.name == "first" and not others.exists():
            time.sleep(0.02)
        return job.name

    names = []
    for job, _ in run(wait, make_jobs("first", "second", "third")):
        names.append(job.name)
        if len(names) == 2:
            (job.folder.parent / "last-may-end").touch()
    assert names[-1] == "first" and sorted(names) == ["first", "second", "third"]


def test_a_lost_node_s_job_goes_on_elsewhere(joined, make_jobs):
    def stay(job):
        import ray

        job.folder.mkdir(parents=True, exist_ok=True)
        with (job.folder / "nodes").open("a") as file:
            file.write(ray.get_runtime_context().get_node_id() + "\n")
        slow = job.folder.parent / "slow" / "nodes"
        while not slow.exists() or len(slow.read_text().splitlines()) < (2 if job.name == "slow" else 1):
            time.sleep(0.02)
        return job.name

    slow, quick = make_jobs("slow", "quick")
    results = run(stay, [slow, quick])
    assert next(results) == (quick, "quick")
    lost = (slow.folder / "nodes").read_text().strip()
    try:
        joined.remove(next(node for node in joined.workers if node.node_id == lost), allow_graceful=False)
        assert list(results) == [(slow, "slow")]
        first, second = (slow.folder / "nodes").read_text().split()
        assert first == lost != second
    finally:
        joined.workers[:] = [node for node in joined.workers if node.node_id != lost] + [joined.add()]


def test_a_job_that_is_lost_each_time_is_given_up_in_one_line(joined, make_jobs):
    def die(job):
        os.kill(os.getpid(), signal.SIGKILL)

    ((_, result),) = run(die, make_jobs("a"), retries=1)
    assert isinstance(result, InputError)
    assert "lost 2 times" in str(result) and "\n" not in str(result)


def test_closing_ends_the_tasks_and_the_programs_they_run(joined, make_jobs):
    def start(job):
        code = f"import os, pathlib, time; pathlib.Path({str(job.folder / 'pid')!r}).write_text(str(os.getpid()))"
        return job.name == "quick" or run_python(["-c", f"{code}; time.sleep(600)"], job.folder / "log")

    jobs = make_jobs("long", "quick")
    results = run(start, jobs)
    next(results)
    pid = int(wait_for(lambda: (jobs[0].folder / "pid").exists() and (jobs[0].folder / "pid").read_text()))
    assert is_alive(pid)
    results.close()
    wait_for(lambda: not is_alive(pid))


def test_a_node_without_the_project_is_named(joined, make_jobs, monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "ROOT", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"^node \S+ does not see this project at \S+elsewhere: all "):
        list(run(work, make_jobs("a")))


@pytest.mark.parametrize("wanted, found", [({"gpus": 2}, "1 CPUs and 2 GPUs"), ({"cpus": 64}, "64 CPUs and 0 GPUs")])
def test_more_than_any_node_has_is_said_and_not_waited_for(joined, make_jobs, wanted, found):
    with pytest.raises(InputError, match=f"--ray auto: a run needs {found}, the nodes have .*1 and 0: use"):
        list(run(work, make_jobs("a"), **wanted))


def test_gpus_are_used_only_where_there_are_some(joined, make_jobs):
    assert [name for _, name in run(work, make_jobs("a"), gpus=1, gpus_if_any=True)] == ["a"]


@pytest.mark.parametrize(
    "address, found", [("127.0.0.1:1", "no answer within 2 s"), ("nonsense", "Invalid address format: nonsense")]
)
def test_a_cluster_that_is_not_there(make_jobs, monkeypatch, address, found):
    pytest.importorskip("ray", reason="requirements-ray.txt is not installed")
    monkeypatch.setattr(cluster, "PATIENCE", 2 if "no answer" in found else 60)
    with pytest.raises(InputError, match=rf"^the Ray cluster --ray {address} can't be joined \({found}\): start"):
        list(run(work, make_jobs("a"), address=address))


def test_without_the_package(make_jobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="--ray needs the package ray .* requirements-ray.txt"):
        list(run(work, make_jobs("a")))


def test_a_sweep_that_loses_a_worker_gives_the_table_of_an_undisturbed_one(joined, data_dir, tmp_path, monkeypatch):
    """The whole of test.py, except that stages run within the workers, which is faster."""
    words = [f"--data={data_dir}", f"--budget-file={write_table(tmp_path)}", f"--iterations={SUITE_STEPS}"]
    words += ["--threads=1", "--device=cpu", "--quiet"]
    monkeypatch.setattr(report, "write_report", functools.partial(report.write_report, plots=False))
    monkeypatch.setattr(stages, "run_python", run_script)
    assert run_suite([*words, f"--output={tmp_path / 'here'}"], "full") == 0
    monkeypatch.setattr(execute, "run_job", run_job_and_die_once)
    assert run_suite([*words, f"--output={tmp_path / 'ray'}", "--ray=auto"], "full") == 0

    assert figures(tmp_path / "here") == figures(tmp_path / "ray")
    assert {"bicycle", "train"} == {run.scene for run in read_results(tmp_path / "ray" / "suite.json").done()}
    assert (tmp_path / "ray" / "report" / "report.md").exists()
    ran = [line.split() for line in (tmp_path / "ray/bicycle/full-normal-seed0/ran").read_text().splitlines()]
    assert [name for name, _ in ran] == ["train.py", "render.py", "render.py", "metrics.py", "render.py", "-m"]
    assert [process == ran[0][1] for _, process in ran] == [True, True, False, False, False, False]


def run_script(words, log, *environment) -> str | None:
    """Run a stage's program in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(words[words[0] == "-m" :]))
        run, name = (runpy.run_module, words[1]) if words[0] == "-m" else (runpy.run_path, words[0])
        try:
            run(name, run_name="__main__")
        except SystemExit as end:
            return None if end.code == 0 else f"exit code {end.code}"


def run_job_and_die_once(job) -> dict:
    """A task; the first that has trained the bicycle is killed before it renders."""
    from compact_splats.suite import stages

    notes = job.folder / "ran"

    def run_python(words, log, *environment):
        job.folder.mkdir(parents=True, exist_ok=True)
        is_first = not notes.exists() or "render.py" not in notes.read_text()
        with notes.open("a") as file:
            file.write(f"{Path(words[0]).name} {os.getpid()}\n")
        if job.scene == "bicycle" and "render.py" in words[0] and is_first:
            os.kill(os.getpid(), signal.SIGKILL)
        return run_script(words, log)

    stages.run_python = run_python
    return stages.run_job(job)


class TestOnNode:
    """What a task checks before it starts; no cluster is needed."""

    def test_what_is_not_shared_is_named(self, tmp_path):
        problem, _ = on_node.run_task(b"", "project", {str(tmp_path): "one", "/no/such/scene": "the scene"}, "lock")
        assert problem.startswith("node ") and "does not see the scene at /no/such/scene" in problem

    def test_a_package_that_the_node_lacks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "path", list(sys.path))
        problem, _ = on_node.run_task(b"cno_such_package\nname\n.", str(tmp_path), {}, "lock")
        assert "(No module named 'no_such_package'): install" in problem
