"""The runs of a sweep: one after the other, several at once, or on a cluster."""

from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any

from usable_processors import default_threads

from compact_splats.arguments.suite import SuiteConfig
from compact_splats.suite.entries import failed_entry
from compact_splats.suite.plan import Job
from compact_splats.suite.process import allow_all, stop_all
from compact_splats.suite.stages import run_job
from compact_splats.utils.machine import visible_gpus

Entry = dict[str, Any]


def execute(jobs: Sequence[Job], config: SuiteConfig) -> Generator[Entry, None, None]:
    """Run the jobs and yield their entries as they end. Closing the iterator ends the running programs.

    Raises:
        InputError: the cluster of ``--ray`` can't be used.
    """
    return _on_cluster(jobs, config, config.ray) if config.ray is not None else _here(jobs, config)


def _here(jobs: Sequence[Job], config: SuiteConfig) -> Generator[Entry, None, None]:
    gpus = visible_gpus() if config.device != "cpu" else []
    free: SimpleQueue[str | None] = SimpleQueue()  # the GPU of each run at the same time
    for place in range(config.jobs):
        free.put(gpus[place % len(gpus)] if len(gpus) > 1 else None)

    def run(job: Job) -> Entry:
        gpu = free.get()
        try:
            return run_job(job, gpu)
        finally:
            free.put(gpu)

    pool = ThreadPoolExecutor(config.jobs, thread_name_prefix="job")
    try:
        running = [pool.submit(run, job) for job in jobs]
        while running:
            # With a timeout: a signal just before the wait, or to another thread, is handled only after it.
            done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            running, ended = [each for each in running if each not in done], [each for each in running if each in done]
            yield from [future.result() for future in ended]
    finally:
        stop_all()
        pool.shutdown(cancel_futures=True)
        allow_all()


def _on_cluster(jobs: Sequence[Job], config: SuiteConfig, address: str) -> Generator[Entry, None, None]:
    from compact_splats.suite.cluster import run_on_ray  # needs the package ray

    cpus = config.threads or default_threads(config.jobs)
    gpus = 0 if config.device == "cpu" else 1 / config.jobs
    is_auto = config.device == "auto"
    for job, result in run_on_ray(run_job, jobs, address, cpus, gpus, config.retries, gpus_if_any=is_auto):
        yield failed_entry(job, str(result)) if isinstance(result, Exception) else result
