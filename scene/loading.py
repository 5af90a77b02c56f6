"""A scene as a training wants it: photos decoded before the first step. How it is read is in ``scene/dataset.py``."""

from pathlib import Path
from typing import Any

import torch

from scene.dataset import Scene, load_scene
from utils.errors import InputError
from utils.run import Run


def load(config: Any, run: Run, device: torch.device) -> Scene:
    """Read the scene and decode all photos, so that whatever is wrong with them shows before anything is written.

    Args:
        config: a ``SceneConfig`` with ``threads`` and ``seed``.
        run: that tells the user what was read.
        device: of the training.

    Raises:
        InputError: the scene or one of its photos can't be read.
    """
    scene = load_scene(
        config.source_path, config.images, config.resolution, config.eval, config.white_background, config.seed
    )
    scene.prefetch(config.threads or torch.get_num_threads())
    for camera in scene.train + scene.test:
        camera.photo.pixels()
        if device.type != "cpu":
            camera.photo.pin_memory()
    first = scene.train[0]
    run.say(
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
