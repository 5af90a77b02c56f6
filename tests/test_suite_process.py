"""Programs of a sweep: the errors they end with, that none outlives the sweep, and that a folder has one sweep."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from suite_cases import is_alive, wait_for

from compact_splats.suite.process import Stopped, allow_all, run_python, stop_all
from compact_splats.utils.errors import InputError
from compact_splats.utils.lock import FolderLock

ROOT = Path(__file__).parent.parent
SLEEP = "import time; print('asleep', flush=True); time.sleep(60)"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('well')", None),
        ("import sys; print('error: no such scene', file=sys.stderr); print('bye'); sys.exit(2)", "no such scene"),
        ("raise ValueError('a bug')", "ValueError: a bug"),
        ("print('bar 1%', end='\\r'); print('bar 9%', end='\\r'); raise SystemExit(3)", "bar 9%"),
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9 (Killed); the machine may have run out of memory"),
    ],
)
def test_how_a_program_ended_is_told_in_one_line(tmp_path, code, reason):
    log = tmp_path / "run" / "log"
    told = run_python(["-c", code], log)
    assert told is None if reason is None else told.endswith(reason) and "\n" not in told
    assert log.read_text().startswith("\n$ python -c ")


def test_an_earlier_error_in_the_log_is_not_told_again(tmp_path):
    log = tmp_path / "log"
    run_python(["-c", "raise SystemExit('error: earlier')"], log)
    assert run_python(["-c", "raise SystemExit('later')"], log) == "later"
    assert "earlier" in log.read_text()


def test_a_program_runs_in_the_projects_folder_and_reads_no_keyboard(tmp_path):
    log = tmp_path / "log"
    assert run_python(["-c", "import os, sys; print(os.getcwd(), repr(sys.stdin.read()))"], log) is None
    assert log.read_text().splitlines()[-1] == f"{ROOT} ''"


def test_a_program_gets_the_variables_that_it_is_given_beside_those_of_the_sweep(tmp_path):
    log = tmp_path / "log"
    run_python(["-c", "import os; print(os.environ['GPU'], len(os.environ['PATH']))"], log, {"GPU": "7"})
    assert log.read_text().splitlines()[-1] == f"7 {len(os.environ['PATH'])}"


def test_a_sweep_that_stops_ends_its_programs_and_starts_no_others(tmp_path):
    log, caught = tmp_path / "log", []

    def run() -> None:
        try:
            run_python(["-c", SLEEP], log)
        except Stopped as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: log.exists() and "\nasleep" in log.read_text())
    stop_all()
    try:
        thread.join(20)
        assert caught and not thread.is_alive()
        with pytest.raises(Stopped):
            run_python(["-c", "print('never')"], log)
        assert "\nnever" not in log.read_text()
    finally:
        allow_all()
    assert run_python(["-c", "print('again')"], log) is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_no_program_outlives_a_sweep_that_is_killed(tmp_path):
    """A program that outlives kill -9 would write into the folder of the next sweep."""
    log = tmp_path / "log"
    child = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"
    code = "from pathlib import Path; from compact_splats.suite.process import run_python; "
    code += f"run_python(['-c', {child!r}], Path({str(log)!r}))"
    sweep = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_for(lambda: log.exists() and re.search(r"^pid \d+\n", log.read_text(), re.M))
    pid = int(log.read_text().split()[-1])
    os.kill(pid, 0)
    sweep.kill()
    sweep.wait()
    wait_for(lambda: not is_alive(pid))


def test_a_folder_is_locked_for_one_at_a_time(tmp_path):
    folder = tmp_path / "new" / "folder"
    with FolderLock(folder):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} on "), FolderLock(folder):
            pass
        with FolderLock(tmp_path / "other"):
            pass
    with FolderLock(folder):
        pass


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    hold = f"with FolderLock(Path({str(tmp_path)!r})): print('mine', flush=True); time.sleep(60)"
    code = f"import time; from pathlib import Path; from compact_splats.utils.lock import FolderLock\n{hold}"
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"mine\n"
    with pytest.raises(InputError, match=f"process {holder.pid} "), FolderLock(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with FolderLock(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_no_lock_but_an_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="can.t be written"), FolderLock(tmp_path / "file" / "folder"):
        pass
    assert (tmp_path / "file").read_text() == "mine"
