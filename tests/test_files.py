"""User errors are one line; scripts end with the promised codes; files appear whole or not at all."""

import os
import stat
import subprocess
import sys

import pytest

from compact_splats.utils.errors import InputError, run_script
from compact_splats.utils.files import atomic_write


def test_an_input_error_is_one_line_of_where_expected_found_and_fix():
    """Line breaks in what was found do not break the line."""
    error = InputError("a/b", "a number", "two\nlines\r\n  of text", "look at it")
    assert str(error) == "a/b: expected a number, found two lines of text; look at it"


def test_exit_codes(tmp_path):
    """0 after a good end; 2 and one line after an InputError; anything else keeps its traceback and code 1."""
    body = "from compact_splats.utils.errors import InputError, run_script\ndef main():\n    {}\nrun_script(main)\n"
    cases = {
        "print('done')": (0, ""),
        "raise InputError('x', 'a', 'b', 'c')": (2, "error: x: expected a, found b; c\n"),
        "raise InputError('no such folder (see -s)')": (2, "error: no such folder (see -s)\n"),
    }
    for line, (code, err) in cases.items():
        result = subprocess.run([sys.executable, "-c", body.format(line)], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (code, err)
    result = subprocess.run([sys.executable, "-c", body.format("1 / 0")], capture_output=True, text=True)
    assert result.returncode == 1 and "ZeroDivisionError" in result.stderr


def test_run_script_passes_the_end_on():
    """A script that exits by itself keeps its code."""
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: sys.exit(3))
    assert caught.value.code == 3


def test_a_written_file_replaces_the_old_one(tmp_path):
    """The new content appears under the final name, missing folders are made, and nothing else is left."""
    target = tmp_path / "new" / "file.txt"
    for content in ("first", "second"):
        with atomic_write(target) as temporary:
            assert temporary.parent == target.parent and temporary.suffix == ".txt" and temporary != target
            temporary.write_text(content)
        assert target.read_text() == content
    assert os.listdir(target.parent) == ["file.txt"]


def test_a_failure_leaves_the_old_file(tmp_path):
    """An exception while writing goes through, the old content stays and the temporary file goes."""
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_the_file_has_the_usual_permissions(tmp_path):
    """Others may read it if the user's umask says so."""
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "file")]
    assert modes[0] == modes[1]


def test_a_place_that_cannot_be_written(tmp_path):
    """A file where a folder should be, and a folder where the file should be, are user errors before any work."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="file/x"), atomic_write(tmp_path / "file" / "x"):
        pytest.fail("the block must not be entered")
    with pytest.raises(InputError, match="folder"), atomic_write(tmp_path / "folder") as temporary:
        temporary.write_text("x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    """A read-only folder is a user error."""
    tmp_path.chmod(0o500)
    with pytest.raises(InputError), atomic_write(tmp_path / "x"):
        pytest.fail("the block must not be entered")
    tmp_path.chmod(0o700)
