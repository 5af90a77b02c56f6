"""One input through one target; shared by the fuzzer and by the tests, which need no atheris."""

import hashlib
import tarfile
import warnings
from pathlib import Path

from compact_splats.compression.container import FormatError
from compact_splats.utils.errors import InputError
from tests.fuzz import CORPORA
from tests.fuzz.targets import TARGETS

LONGEST_MESSAGE = 2500  # characters


def is_read(name: str, data: bytes, folder: Path) -> bool:
    """Whether a target reads an input; false where it refuses it in one line.

    Args:
        name: of the target.
        data: the input.
        folder: of the target, the same each time.

    Raises:
        Exception: whatever is neither; numpy's warnings of numbers that went wrong, too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about metadata
        warnings.simplefilter("error", RuntimeWarning)
        try:
            TARGETS[name].read(data, folder)
        except (InputError, FormatError) as error:
            assert str(error).isprintable() and len(str(error)) < LONGEST_MESSAGE, str(error)
            return False
    return True


def write_inputs(folder: Path, inputs: list[bytes]) -> None:
    """Write inputs under names that depend on nothing but them."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def kept_inputs(name: str) -> list[bytes]:
    """The corpus of a target that is kept beside the tests; nothing where none is yet."""
    if not (CORPORA / f"{name}.tar.xz").exists():
        return []
    with tarfile.open(CORPORA / f"{name}.tar.xz") as archive:
        return [archive.extractfile(member).read() for member in archive]


def keep_inputs(name: str, folder: Path) -> None:
    """Replace the corpus of a target by the files of a folder."""
    CORPORA.mkdir(exist_ok=True)
    with tarfile.open(CORPORA / f"{name}.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted(folder.iterdir()):
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(member, file)
