"""Writes the scene: undistorted photos and masks, the upright model, smaller copies."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pycolmap
from PIL import Image

from compact_splats.photogrammetry.photos import InputPhotos
from compact_splats.photogrammetry.stages import Stages

JPEG_QUALITY = 95  # of the scene's photos
DIVISORS = (2, 4, 8)


def turn_upright(model: pycolmap.Reconstruction) -> None:
    """Rotate a model, in place, so that y is the mean down direction of the photos, as viewers assume.

    Scale and origin are COLMAP's.
    """
    poses = [model.image(number).cam_from_world().rotation.matrix() for number in model.reg_image_ids()]
    down = np.mean([pose[1] for pose in poses], axis=0)
    if np.linalg.norm(down) < 1e-3:  # no common down direction
        return
    down = down / np.linalg.norm(down)
    forward = np.eye(3)[np.argmin(np.abs(down))]
    right = np.cross(down, forward)
    right /= np.linalg.norm(right)
    turn = np.stack([right, down, np.cross(right, down)])
    model.transform(pycolmap.Sim3d(1.0, pycolmap.Rotation3d(turn), np.zeros(3)))


def write_scene(
    model: pycolmap.Reconstruction, inputs: InputPhotos, work: Path, scene: Path, stages: Stages, threads: int
) -> None:
    """Write ``images``, ``sparse/0`` and, if there are masks, ``masks``.

    Args:
        model: with distortion.
        inputs: its photos.
        work: folder for intermediate files; the distorted model stays in its ``sparse/0``.
        scene: the folder to write to.
        stages: shows the progress.
        threads: number of CPU threads.
    """
    distorted, out = work / "sparse" / "0", work / "undistorted"
    distorted.mkdir(parents=True)
    for camera in model.cameras.values():
        _make_pinhole(camera)
    model.write(distorted)

    def work_on(token: pycolmap.CancellationToken) -> None:
        pycolmap.undistort_images(
            out, distorted, inputs.folder, jpeg_quality=JPEG_QUALITY, num_threads=threads, cancellation_token=token
        )

    def num_written() -> int:
        return sum(path.is_file() for path in out.glob("images/**/*"))

    num_photos = model.num_reg_images()
    stages.run("undistortion", num_photos, work_on, num_written)
    if num_written() != num_photos:
        raise OSError(f"only {num_written()} of {num_photos} photos could be written")
    shutil.move(out / "images", scene / "images")
    (scene / "sparse").mkdir()
    shutil.move(out / "sparse", scene / "sparse" / "0")
    masked = {photo.name for photo in inputs.photos if photo.has_mask}
    images = [image for image in model.images.values() if image.has_pose and image.name in masked]
    for image in stages.each("masks", images) if images else ():
        _undistort_mask(inputs.masks / f"{image.name}.png", image.camera, scene / "masks" / f"{image.name}.png")


def _make_pinhole(camera: pycolmap.Camera) -> None:
    """Turn a SIMPLE_PINHOLE, which COLMAP's undistortion keeps, into a PINHOLE."""
    if camera.model_name == "SIMPLE_PINHOLE":
        focal, *centre = camera.params
        camera.model, camera.params = pycolmap.CameraModelId.PINHOLE, [focal, focal, *centre]


def _undistort_mask(source: Path, camera: pycolmap.Camera, target: Path) -> None:
    with Image.open(source) as picture:
        mask = pycolmap.Bitmap.from_array(np.asarray(picture))
    undistorted, _ = pycolmap.undistort_image(pycolmap.UndistortCameraOptions(), mask, camera)
    values = np.where(undistorted.to_array() > 127, 255, 0).astype(np.uint8)
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.reshape(values.shape[:2])).save(target)


def write_smaller(scene: Path, stages: Stages, threads: int) -> None:
    """Write ``images_2``, ``images_4`` and ``images_8``: the photos at 1/2, 1/4 and 1/8 of their size."""
    photos = sorted(path for path in (scene / "images").rglob("*") if path.is_file())

    def shrink(path: Path) -> None:
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
        for divisor in DIVISORS:
            size = tuple(max(1, round(side / divisor)) for side in pixels.shape[1::-1])
            target = scene / f"images_{divisor}" / path.relative_to(scene / "images")
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)).save(target, quality=JPEG_QUALITY)

    with ThreadPoolExecutor(threads) as pool:
        for _ in stages.each("smaller", pool.map(shrink, photos), len(photos)):
            pass
