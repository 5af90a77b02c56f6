"""Jobs on a Ray cluster, one task for each. Knows of a job only its folders. Ray is an optional package."""

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
PATIENCE = 30  # seconds that a cluster has to answer
CHECK_EVERY = 30  # seconds without a result until the nodes are checked again
GRACE = 10  # seconds for cancelled tasks to end
OBJECT_STORE = 100_000_000  # bytes; it holds only the results of the jobs

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
    """Run jobs on a cluster, and yield each with its result as soon as it ends.

    If a worker process or a node is lost, its job starts again, on another node if necessary; the function must skip
    what is finished. Closing the iterator, or an exception such as Ctrl-C, cancels the running tasks.

    Args:
        function: runs a job. The programs that it starts must end with its process.
        jobs: can be pickled; their folders ``source`` (read) and ``folder`` (written) are absolute paths. All nodes
            must have these folders and the project under the same paths.
        address: ``local`` starts a cluster on this machine; ``auto`` is that of the environment variable RAY_ADDRESS,
            or else the one that runs on this machine; ``HOST:PORT`` is one that has this machine as a node.
        cpus: CPUs of each job.
        gpus: GPUs of each job; may be a fraction.
        retries: how often a job starts again when its worker or node is lost.
        gpus_if_any: use no GPU if the cluster has none.

    Yields:
        A job, and the result of the function, or the exception that it raised; an ``InputError`` if the job was lost
        more than ``retries`` times.

    Raises:
        InputError: Ray is not installed, the cluster can't be reached, no node is large enough for a job, or a node
            lacks a shared folder.
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
        raise InputError(f"--ray needs the package ray ({error}): pip install -r requirements-ray.txt") from error
    return ray


@contextmanager
def _joined(ray: ModuleType, address: str) -> Iterator[None]:
    """Connect to a cluster; a local one ends with the block."""
    options: dict[str, Any] = {}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends usage statistics
        options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    else:
        _check_address(address)
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    signal.signal(signal.SIGTERM, handler)  # ray.init replaces it
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Join in another process first: without a cluster Ray tries for minutes, and has no option for a shorter time."""
    fix = f"start one with 'ray start --head', or use --ray {LOCAL}"
    try:
        done = subprocess.run([sys.executable, "-c", _JOIN, address], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        reason = f"no answer within {PATIENCE} s"
    else:
        if done.returncode == 0:
            return
        reason = (done.stderr.splitlines() or ["no reason given"])[-1]
        if "InvalidAuthToken" in done.stderr:
            reason = "it requires a token"
            fix = "set the environment variable RAY_AUTH_MODE=token, and copy its ~/.ray/auth_token to this machine"
    raise InputError(f"the Ray cluster --ray {address} can't be joined ({reason}): {fix}")


@contextmanager
def _marked(jobs: Sequence[Any]) -> Iterator[Path]:
    """A temporary folder beside those of the jobs: a node that does not see it has another file system."""
    common = Path(os.path.commonpath([job.folder.parent for job in jobs]))
    common.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=common, ignore_cleanup_errors=True) as marker:
        yield Path(marker)


def _task(ray: ModuleType, function: Callable, job: Any, lock: Path) -> tuple[bytes, str, dict[str, str], str]:
    """The arguments of :func:`on_node.run_task`."""
    shared = {str(ROOT): "this project", str(job.source): "the scene", str(lock.parent): "the output folder"}
    return ray.cloudpickle.dumps((function, job)), str(ROOT), shared, str(lock)


def _nodes(ray: ModuleType) -> list[dict[str, float]]:
    """CPUs, GPUs and other resources of each node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _check_room(ray: ModuleType, address: str, cpus: float, gpus: float) -> None:
    """Refuse jobs that are too large for every node; Ray would wait for a larger one."""
    nodes = [(node.get("CPU", 0), node.get("GPU", 0)) for node in _nodes(ray)]
    if not any(has_cpus >= cpus and has_gpus >= gpus for has_cpus, has_gpus in nodes):
        found = ", ".join(f"{has_cpus:g} and {has_gpus:g}" for has_cpus, has_gpus in sorted(set(nodes))) or "no nodes"
        need = f"--ray {address}: a run needs {cpus:g} CPUs and {gpus:g} GPUs, the nodes have {found}"
        raise InputError(f"{need}: use --threads or --device cpu, or add a larger node")


def _result(ray: ModuleType, task: Any, retries: int) -> Any:
    try:
        problem, result = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        return error.cause
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        return InputError(f"its worker was lost {retries + 1} times, the last time: {reason} (see Ray's logs)")
    if problem:
        raise InputError(problem)
    return result


def _cancel(ray: ModuleType, tasks: list) -> None:
    """Kill the processes of tasks: an interrupt would wait for the programs that they run."""
    for task in tasks:
        ray.cancel(task, force=True)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=GRACE)
