"""Prepares a scene for training: photos decoded before the first step, and the first Gaussians."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compact_splats.scene.dataset import Scene, load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.processes import SingleProcess
from compact_splats.utils.errors import InputError


def load(
    config: Any, say: Callable[[str], None], device: torch.device, check: Callable[[Scene], None] = lambda scene: None
) -> Scene:
    """Read the scene and decode all photos, so that a broken one is an error before anything is written.

    Args:
        config: a ``SceneConfig`` with ``seed``.
        say: prints a line for the user.
        device: of the training.
        check: gets the scene before its photos are decoded, and may raise.

    Raises:
        InputError: the scene or one of its photos can't be read.
    """
    scene = load_scene(
        config.source_path, config.images, config.resolution, config.eval, config.white_background, config.seed,
        config.make_schedule().num_random_points(config.final_budget),
    )  # fmt: skip
    check(scene)
    scene.prefetch(torch.get_num_threads())
    for camera in scene.train + scene.test:
        camera.required_photo.pixels()
        if device.type != "cpu":
            camera.required_photo.pin_memory()
    first = scene.train[0]
    say(
        f"{config.source_path}: {len(scene.train)} training and {len(scene.test)} test views, "
        f"{first.width}x{first.height} px, {len(scene.points.xyz):,} points"
    )
    return scene


def check_all_photos(scene: Scene, source: Path) -> None:
    """Make sure that no photo is missing.

    Raises:
        InputError: one is.
    """
    if scene.missing:
        found = f"{len(scene.missing)} missing, {scene.missing[0]} for one"
        raise InputError(source, "all registered photos", found, "copy them, or leave out --all-photos")


def first_gaussians(config: Any, scene: Scene, device: torch.device) -> GaussianModel:
    """What the training starts from: the scene's points, or a model.

    Raises:
        InputError: the model can't be used.
    """
    if config.init_ply is None:
        return GaussianModel.from_points(scene.points, config.sh_degree, device)
    model = GaussianModel.load_ply(config.init_ply, device, config.sh_degree)
    if not model.num_gaussians:
        raise InputError(config.init_ply, "at least one Gaussian", "none", "give another model")
    return model


def check_same_start(processes: SingleProcess, config: Any, scene: Scene) -> None:
    """Make sure that all processes start from the same; what the photos show is not looked at.

    Raises:
        InputError: one does not.
    """
    neutral = {
        "source_path": Path(),
        "model_path": None,
        "resume": False,
        "device": "auto",
        "threads": 0,
        "quiet": False,
    }
    text = repr((replace(config, **neutral), [camera.name for camera in scene.train]))
    settings = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    poses = [camera.world_to_camera for camera in scene.train]
    points = [scene.points.xyz, scene.points.rgb]
    processes.check_same("flags, photos, poses and points", [settings, *poses, *points])
