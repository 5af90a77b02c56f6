"""Prepares a scene for training: its photos, decoded in the background, and the first Gaussians."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from usable_processors import default_threads

from compact_splats.arguments.sizes import memory_size
from compact_splats.scene.dataset import Scene, load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import Units
from compact_splats.scene.parameters import SavedArrays
from compact_splats.scene.points import share_in_view
from compact_splats.training.exposure import DIFFERENT, Exposure, difference_of_exposures
from compact_splats.training.poses import PoseRefinement
from compact_splats.training.processes import SingleProcess
from compact_splats.training.sparse_depth import FEW_PHOTOS, SparseDepth
from compact_splats.training.strategy import Strategy
from compact_splats.utils.errors import InputError, note

_FEW_IN_VIEW = 0.25  # share of the first Gaussians; in captures it is 0.86 or more


def scene_of(config: Any, units: Units | None = None, **more: Any) -> Scene:
    """The scene of a ``SceneConfig``; ``units`` are those of an earlier run on it, ``more`` is for ``load_scene``.

    Raises:
        InputError: the scene can't be read.
    """
    return load_scene(
        config.source_path, config.images, config.resolution, config.eval, config.alpha, units=units,
        sparse=config.sparse, photo_memory=memory_size(config.photo_memory), **more,
    )  # fmt: skip


def load(
    config: Any,
    check: Callable[[Scene], None] = lambda scene: None,
    num_random_points: int = 100_000,
    units: Units | None = None,
    *,
    max_tracked: int = 0,
) -> Scene:
    """Read the scene; its photos are decoded on first use, see :class:`Decoding`.

    Args:
        config: a ``MachineConfig`` and ``SceneConfig`` with ``seed``.
        check: gets the scene, and may raise.
        num_random_points: number of the points of a scene without points.
        units: those of an earlier run on the scene.
        max_tracked: which points each training view observes is needed with at most so many, if the scene says it.

    Raises:
        InputError: the scene can't be read.
    """
    scene = scene_of(config, units, seed=config.seed, num_random_points=num_random_points, max_tracked=max_tracked)
    check(scene)
    first = scene.train[0]
    config.say(
        f"{config.source_path}: {len(scene.train)} training and {len(scene.test)} test views, "
        f"{first.width}x{first.height} px, {len(scene.points.xyz):,} points"
    )
    return scene


class Decoding:
    """Decodes all photos of a scene in background threads; a photo that is used earlier is decoded there.

    Where not all fit into memory, only those are decoded that lack their end, and others when they are used.

    Args:
        scene: its training photos are decoded first.
        device: of their use; for a GPU they are put into page-locked memory.
        folder: of the file for photos that do not fit into memory, see ``PhotoCache.open_file``.
        copies: processes that make such a file on the same disk.

    Raises:
        InputError: there is not enough space for the file.
    """

    def __init__(self, scene: Scene, device: torch.device, folder: Path, copies: int = 1) -> None:
        self._cache = scene.photos
        self._cache.pin = device.type != "cpu"
        photos = [camera.required_photo for camera in scene.train + scene.test]
        self._cache.open_file(folder, photos, copies, is_busy=device.type == "cpu")
        if self._cache.holds_all:
            jobs = [photo.planes for photo in photos]
        else:
            jobs = [photo.decode for photo in photos if photo.is_cut]
        self._executor = ThreadPoolExecutor(default_threads(), thread_name_prefix="photos")
        self._futures = [self._executor.submit(job) for job in jobs]

    @property
    def is_over(self) -> bool:
        """Whether all photos are decoded, or one of them is broken."""
        over = [future for future in self._futures if future.done()]
        return len(over) == len(self._futures) or any(future.exception() for future in over)

    def finish(self) -> None:
        """Wait for all photos.

        Raises:
            InputError: one is broken; of several, the first.
        """
        for future in self._futures:
            future.result()
        self._stop()

    def close(self) -> None:
        """Leave out the photos that no thread has begun with, and remove the file."""
        self._stop()
        self._cache.close()

    def _stop(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._futures = []


def check_all_photos(scene: Scene, source: Path) -> None:
    """Make sure that no photo is missing.

    Raises:
        InputError: one is.
    """
    if scene.missing:
        found = f"{len(scene.missing)} missing, {scene.missing[0]} for one"
        raise InputError(source, "all registered photos", found, "copy them, or leave out --all-photos")


def first_gaussians(config: Any, scene: Scene, device: torch.device, given: SavedArrays | None) -> GaussianModel:
    """What the training starts from: the model ``given``, or else the scene's points; a note if few are in view.

    Raises:
        InputError: the model has no Gaussians.
    """
    if given is None:
        model = GaussianModel.from_points(scene.points, config.sh_degree, device)
    elif not len(given["means"]):
        raise InputError(config.init_ply, "at least one Gaussian", "none", "give another model")
    else:
        units = scene.units.without_offset()  # unless the file names its offset
        model = GaussianModel.from_arrays(given, device, units, config.sh_degree)
    share = share_in_view(model.means.detach().cpu(), scene.train)
    if share < _FEW_IN_VIEW:
        what = "points" if given is None else f"Gaussians of {config.init_ply}"
        note(
            f"only {100 * share:.3g} % of the {what} are in a training photo: are they in the coordinates of the "
            "poses, and are axes and direction of the poses those of the format (COLMAP: world to camera)?"
        )
    return model


def exposure_for(config: Any, scene: Scene, device: torch.device) -> Exposure | None:
    """The colour transforms of the photos, if they are to be learnt; says why, where the photos decide it.

    Raises:
        InputError: a photo is broken.
    """
    if config.exposure == "off" or len(scene.train) < 2:
        return None
    if config.exposure == "auto":
        difference = difference_of_exposures(scene)
        if difference < DIFFERENT:
            return None
        config.say(
            f"photos of the same points differ in brightness by {difference:.0%} (standard deviation): the exposure "
            "of each is learnt (see --exposure)"
        )
    return Exposure(len(scene.train), device)


def poses_for(config: Any, scene: Scene) -> PoseRefinement | None:
    """The changes of the training poses, if they are to be learnt."""
    if not config.refine_poses:
        return None
    if len(scene.train) < 2:
        config.say("the scene has one training photo, whose pose is not refined: there is nothing to compare it with")
        return None
    return PoseRefinement(scene.train)


def max_with_depth_loss(config: Any) -> int:
    """The most training photos with which the term of the points' depths is added."""
    return {"off": 0, "auto": FEW_PHOTOS, "on": sys.maxsize}[config.depth_loss]


def depth_loss_for(config: Any, scene: Scene) -> list[Strategy]:
    """The term of the points' depths, if it is to be added; says so, where the number of photos decides it.

    Args:
        config: of the training.
        scene: of the training, loaded with ``max_with_depth_loss`` as ``max_tracked``.

    Raises:
        InputError: it was asked for, and no photo says which points it observes.
    """
    if len(scene.train) > max_with_depth_loss(config):
        return []
    if not any(len(points) for points in scene.observed):
        if config.depth_loss == "on":
            found = "a COLMAP model whose photos observe its points"
            raise InputError(f"--depth-loss on needs {found}, and {config.source_path} has none: leave the flag out")
        return []
    if config.depth_loss == "auto":
        config.say(
            f"only {len(scene.train)} training photos: the rendered depth is held at the points that they observe "
            f"({sum(map(len, scene.observed)):,} observations; see --depth-loss)"
        )
    return [SparseDepth(scene)]


def check_same_start(processes: SingleProcess, config: Any, scene: Scene) -> None:
    """Make sure that all processes start from the same; what the photos show is not looked at.

    Raises:
        InputError: one does not.
    """
    alike = replace(
        config, source_path=Path(), model_path=None, resume=False, device="auto", threads=0, photo_memory="auto",
        quiet=False,
    )  # fmt: skip
    text = repr((alike, [camera.name for camera in scene.train]))
    settings = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    poses = [camera.world_to_camera for camera in scene.train]
    points = [scene.points.xyz, scene.points.rgb]
    processes.check_same("flags, photos, poses and points", [settings, *poses, *points])
