"""The PNG pairs of a model folder, ``test/METHOD/{renders,gt}``: found, checked and read. Computes no metrics."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from compact_splats.utils.errors import InputError, note
from compact_splats.utils.pictures import picture_size


@dataclass(frozen=True)
class Pair:
    """A rendered test view and its photo, as files."""

    image: Path
    photo: Path

    @property
    def name(self) -> str:
        """File name of the view."""
        return self.image.name

    def read(self) -> tuple[Tensor, Tensor]:
        """Image and photo, each (3,H,W) float32 RGB in [0, 1].

        Raises:
            InputError: a file cannot be decoded, or the two differ in size.
        """
        image, photo = _read_rgb(self.image), _read_rgb(self.photo)
        if image.shape != photo.shape:
            (_, height, width), (_, photo_height, photo_width) = image.shape, photo.shape
            raise InputError(
                f"{self.image} is {width}x{height} px, its photo {photo_width}x{photo_height} px: run render.py again"
            )
        return image, photo


def find_methods(model: Path) -> list[Path]:
    """Folders of rendered test views of a model: ``test/ours_N`` in the order of N, then those of model files.

    A note says which are older than the model: another training replaced it.

    Raises:
        InputError: the model folder does not exist or has no rendered test views.
    """
    if not model.is_dir():
        raise InputError(f"model folder {model} {'is a file' if model.exists() else 'does not exist'} (see -m)")
    folders = (path for path in (model / "test").glob("*") if path.is_dir())
    methods = [path for path in folders if is_trained(path) or (path / "renders").is_dir()]
    if not methods:
        raise InputError(f"{model} has no rendered test views: run render.py -m {model}, after a training with --eval")
    for path in filter(is_trained, methods):
        trained = model / "point_cloud" / path.name.replace("ours", "iteration") / "point_cloud.ply"
        first = path / "renders" / "00000.png"
        if trained.is_file() and first.is_file() and first.stat().st_mtime < trained.stat().st_mtime:
            note(f"the pictures in {path} are older than {trained}: run render.py -m {model} again")
    return sorted(methods, key=lambda path: (not is_trained(path), is_trained(path) * len(path.name), path.name))


def is_trained(method: Path) -> bool:
    """Whether a folder holds views of the model that training saved, ``ours_N``, and not of another file."""
    return method.name.startswith("ours_")


def find_pairs(method: Path) -> list[Pair]:
    """Pairs of a folder ``test/METHOD`` in the order of their names.

    Raises:
        InputError: there are none, or one of a pair is missing.
    """
    images, photos = ({path.name for path in (method / kind).glob("*.png")} for kind in ("renders", "gt"))
    if not images | photos:
        raise InputError(f"{method} has no PNG files in renders and gt: run render.py again")
    if single := sorted(images ^ photos):
        kind = "gt" if single[0] in images else "renders"
        raise InputError(f"{method / kind / single[0]} is missing: run render.py again")
    return [Pair(method / "renders" / name, method / "gt" / name) for name in sorted(images)]


def _read_rgb(path: Path) -> Tensor:
    fix = "run render.py again"
    picture_size(path, fix)  # before memory for the pixels is allocated
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise InputError(f"{path} is not a PNG image: {fix}")
    return torch.from_numpy(pixels[:, :, ::-1].transpose(2, 0, 1).copy()).float() / 255
