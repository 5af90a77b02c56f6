"""The CPU engine's threads: they sleep between calls, and no call waits for another, whatever the process does."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diff_gaussian_rasterization import photometric_loss
from rasterizer_cases import CPU, Case, make_case
from test_rasterizer_bits import assert_same_bits

THREADS = Path("/proc/self/task")
# Start of the script of a new process, which has no threads of the engine yet.
SCRIPT = f"""
import sys, os, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from rasterizer_cases import CPU, make_case
torch.set_num_threads(1)
case = make_case(3, 500, 90, 60)
def image(threads): return CPU.rasterize(case, case.inputs, torch.float64, threads=threads).image
alone = image(1)
"""


def run_script(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", SCRIPT + code], capture_output=True, text=True, timeout=300)


def everything(case: Case, threads: int) -> dict:
    """Outputs, gradients, loss and importance of a case."""
    out = CPU.run(case, torch.float32, threads=threads)
    image = out["image"].float().requires_grad_()
    loss = photometric_loss(image, torch.zeros_like(image), threads=threads).loss
    loss.backward()
    weights = torch.ones(case.camera.height, case.camera.width)
    scores = CPU.importance(case, weights, torch.float32, threads=threads)
    return out | {"loss": loss.detach(), "d_image": image.grad} | scores._asdict()


def test_simultaneous_calls_with_many_threads_do_not_change_a_bit():
    """Four Python threads at once, with 16 engine threads and other numbers."""
    case = make_case(3, 3000, 150, 99, size=0.5)
    alone = everything(case, 1)
    assert_same_bits(everything(case, 16), alone)
    with ThreadPoolExecutor(4) as pool:
        for one in pool.map(lambda threads: everything(case, threads), [16, 16, 3, 1, 16, 2, 64, 16] * 3):
            assert_same_bits(one, alone)


@pytest.mark.skipif(not THREADS.is_dir(), reason="counts threads in /proc")
def test_threads_are_kept_and_sleep_between_calls():
    done = run_script("""
import json
image(2)  # a sanitizer starts a thread of its own beside the first one
before = len(os.listdir("/proc/self/task"))
for i in range(20): image(5)
for i in range(20): image(3)
started = len(os.listdir("/proc/self/task")) - before
start = time.process_time()
time.sleep(0.5)
print(json.dumps([started, time.process_time() - start]))
""")
    started, cpu_seconds = json.loads(done.stdout)
    assert started == 3, done.stderr
    assert cpu_seconds < 0.05


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_has_threads_of_its_own():
    """Also when another thread of the parent is within a call, and when the child forks again."""
    done = run_script("""
is_over = threading.Event()
def work():
    while not is_over.is_set(): image(4)
worker = threading.Thread(target=work)
worker.start()
image(4)
for i in range(10):
    if os.fork() == 0:
        same = bool((image(4) == alone).all()) and len(os.listdir("/proc/self/task")) == 4
        if os.fork() == 0:
            os._exit(0 if bool((image(3) == alone).all()) else 1)
        os._exit(0 if same and os.waitstatus_to_exitcode(os.wait()[1]) == 0 else 1)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert (image(4) == alone).all()
is_over.set()
worker.join()
""")
    assert done.returncode == 0, done.stderr


def test_sleeping_threads_do_not_keep_the_process():
    done = run_script("""
started = [threading.Thread(target=image, args=(8,)) for i in range(3)]
for each in started: each.start()
for each in started: each.join()
""")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not THREADS.is_dir(), reason="the limit of Linux")
@pytest.mark.skipif("san" in os.environ.get("LD_PRELOAD", ""), reason="sanitizers need address space")
def test_fewer_threads_than_wanted_are_enough():
    """There is address space for a few stacks only."""
    done = run_script("""
import resource
image(1)
used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
before = len(os.listdir("/proc/self/task"))
assert (image(64) == alone).all()
started = len(os.listdir("/proc/self/task")) - before
assert 0 < started < 20, started
assert (image(64) == alone).all()
""")
    assert done.returncode == 0, done.stderr
