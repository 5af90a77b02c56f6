"""Jobs on a Ray cluster, a task each. Of a job it knows only where its files are; Ray itself is an optional package."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from compact_splats.suite import on_node
from compact_splats.suite.process import ROOT
from compact_splats.utils.errors import InputError

Job = TypeVar("Job")

LOCAL = "local"  # as an address: start a cluster here
PATIENCE = 30  # seconds until a cluster that does not answer is taken for unreachable
CHECK_EVERY = 30  # seconds without a result until it is looked up whether there still are nodes for the jobs
GRACE = 10  # seconds for cancelled tasks to end
OBJECT_STORE = 100_000_000  # bytes; only the results of the jobs go there

_JOIN = """
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False)
except Exception as error:
    sys.exit(" ".join(str(error).split()))
"""


def run_on_ray(
    function: Callable[[Job], Any],
    jobs: Sequence[Job],
    address: str,
    cpus: float,
    gpus: float,
    retries: int,
    *,
    gpus_if_any: bool = False,
) -> Iterator[tuple[Job, Any]]:
    """Do jobs on a cluster and give each with its result as soon as it is there.

    A job whose worker process or node is lost is begun again, on another node if need be, and has to find by itself
    what is done already. Closing the iterator, or an exception such as Ctrl-C, cancels what is running.

    Args:
        function: what to do with a job. The programs that it starts must end with its process.
        jobs: objects that can be pickled, with the folders ``source`` (read) and ``folder`` (written), absolute paths.
            All nodes must have them, and the project, in the same place.
        address: ``local`` to start a cluster on this machine; ``auto`` for the one that the environment variable
            RAY_ADDRESS names, or else runs on this machine; or ``HOST:PORT`` of one that this machine is a node of.
        cpus: share of each job.
        gpus: share of each job; can be a fraction.
        retries: how often a job is begun again when its worker or node is lost.
        gpus_if_any: use no GPU where the cluster has none.

    Yields:
        A job, and what the function returned, or the exception that it raised; an ``InputError`` if it was lost more
        than ``retries`` times.

    Raises:
        InputError: Ray is not installed, the cluster can't be reached, none of its nodes has as much as a job needs,
            or one of them lacks what must be shared.
    """
    ray = _import_ray()
    with _joined(ray, address), _marked(jobs) as marker:
        if gpus_if_any and not any("GPU" in resources for resources in _nodes(ray)):
            gpus = 0
        _check_room(ray, address, cpus, gpus)
        ray.cloudpickle.register_pickle_by_value(on_node)
        run_task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(on_node.run_task)
        tasks = {run_task.remote(*_task(ray, function, job, marker / str(i))): job for i, job in enumerate(jobs)}
        try:
            while tasks:
                ready, _ = ray.wait(list(tasks), timeout=CHECK_EVERY)
                if not ready:
                    _check_room(ray, address, cpus, gpus)
                for task in ready:
                    yield tasks.pop(task), _result(ray, task, retries)
        finally:
            _cancel(ray, list(tasks))


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        fix = "install it by pip install -r requirements-ray.txt, or run without --ray"
        raise InputError("--ray", "the package ray", f"'{error}'", fix) from error
    return ray


@contextmanager
def _joined(ray: ModuleType, address: str) -> Iterator[None]:
    """Be connected to a cluster; one that was started for it ends with the block."""
    options: dict[str, Any] = {}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray tells its makers
        options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    else:
        _check_address(address)
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    signal.signal(signal.SIGTERM, handler)  # which Ray has replaced
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Try to join, in another process: where there is no cluster, Ray goes on trying for minutes, and can't be told."""
    fix = f"start one by 'ray start --head', or run on this machine alone with --ray {LOCAL}"
    try:
        done = subprocess.run([sys.executable, "-c", _JOIN, address], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        found = f"no answer within {PATIENCE} s"
    else:
        if done.returncode == 0:
            return
        found = f"'{(done.stderr.splitlines() or ['nothing'])[-1]}'"
        if "InvalidAuthToken" in done.stderr:
            found = "one that wants a token"
            fix = "set the environment variable RAY_AUTH_MODE=token, and have its ~/.ray/auth_token on this machine"
    raise InputError(f"--ray {address}", "a Ray cluster that can be joined", found, fix)


@contextmanager
def _marked(jobs: Sequence[Any]) -> Iterator[Path]:
    """A folder among those of the jobs that only a node that shares them can see."""
    common = Path(os.path.commonpath([job.folder.parent for job in jobs]))
    common.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=common, ignore_cleanup_errors=True) as marker:
        yield Path(marker)


def _task(ray: ModuleType, function: Callable, job: Any, lock: Path) -> tuple[bytes, str, dict[str, str], str]:
    """The arguments of :func:`suite.on_node.run_task`."""
    shared = {str(ROOT): "this project", str(job.source): "the scene", str(lock.parent): "the output folder"}
    return ray.cloudpickle.dumps((function, job)), str(ROOT), shared, str(lock)


def _nodes(ray: ModuleType) -> list[dict[str, float]]:
    """What each node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _check_room(ray: ModuleType, address: str, cpus: float, gpus: float) -> None:
    """Look for a node that can take a job; Ray would wait for one."""
    nodes = [(node.get("CPU", 0), node.get("GPU", 0)) for node in _nodes(ray)]
    if not any(has_cpus >= cpus and has_gpus >= gpus for has_cpus, has_gpus in nodes):
        found = ", ".join(f"{has_cpus:g} and {has_gpus:g}" for has_cpus, has_gpus in sorted(set(nodes))) or "no nodes"
        fix = "ask for fewer by --threads or --device cpu, or add such a node"
        raise InputError(f"--ray {address}", f"a node with {cpus:g} CPUs and {gpus:g} GPUs for a run", found, fix)


def _result(ray: ModuleType, task: Any, retries: int) -> Any:
    try:
        problem, result = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        return error.cause
    except ray.exceptions.RayError as error:
        found = f"{retries + 1} lost ones, the last by '{str(error).strip().splitlines()[0]}'"
        return InputError("--ray", "a worker that lives until the run has ended", found, "see Ray's logs on the nodes")
    if problem:
        raise InputError(*problem)
    return result


def _cancel(ray: ModuleType, tasks: list) -> None:
    """End the processes of tasks: an interrupt would wait until the programs that they run have ended."""
    for task in tasks:
        ray.cancel(task, force=True)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=GRACE)
