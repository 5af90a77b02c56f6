"""Selects frames of a video: spread evenly over the camera movement, the sharpest of each interval.

The video is decoded twice, first at a small size to measure it, so memory does not grow with its length.
"""

from pathlib import Path

import av
import cv2
import numpy as np

from compact_splats.photogrammetry.photos import InputPhoto, InputPhotos, combined_masks, write_faces, write_photo
from compact_splats.photogrammetry.stages import Stages
from compact_splats.photogrammetry.video import FIX, Video
from compact_splats.scene.lens import FACES
from compact_splats.utils.errors import InputError

STEP = 0.06  # movement between selected frames, as a fraction of the frame's longer side
MIN_FRAMES, MAX_FRAMES = 30, 200  # if the user sets no number
_SHARPNESS_SIZE, _MOTION_SIZE = 640, 320  # px, longer side of the measured frames
_NUM_CORNERS, _MIN_CORNERS = 200, 10
_MIN_CONTRAST = 1.0  # standard deviation in grey levels; decoders fill what they miss with one grey
_MIN_MOTION = 1e-5  # per frame, so that a still camera is sampled evenly in time


def extract_frames(path: Path, num_frames: int, work: Path, stages: Stages, prefix: str = "") -> InputPhotos:
    """Select frames of a video and write them, upright and in sRGB.

    Args:
        path: the file.
        num_frames: maximum; 0: depending on the camera movement.
        work: folder for the frames.
        stages: shows the progress.
        prefix: of the names in the result.

    Raises:
        InputError: the file is not a video, or has fewer than two frames.
    """
    video = Video(path)
    sharpness, motion, is_blank = measure_frames(video, stages)
    for text in video.notes:
        stages.note(f"{path}: {text}")
    usable = np.flatnonzero(~is_blank)
    if len(usable) < 2:
        usable = np.arange(len(is_blank))
    elif is_blank.any():
        stages.note(f"{path}: {is_blank.sum()} frames of one colour are left out")
    chosen = usable[choose_frames(sharpness[usable], motion[usable], num_frames)]
    out, photos, wanted = InputPhotos(work / "photos", work / "masks", (), {}), [], set(chosen.tolist())
    frames = (frame for index, frame in enumerate(video.frames()) if index in wanted)
    for index, frame in stages.each("frames", zip(chosen.tolist(), frames, strict=False), len(chosen), "frame"):
        rgb, alpha = video.pixels(frame)
        name, mask = f"{prefix}frame_{index:06d}", combined_masks(alpha)
        if video.is_panorama:
            photos += write_faces(out, prefix, f"frame_{index:06d}.jpg", name, rgb, mask)
            continue
        photo = InputPhoto(f"{name}.jpg", f"{name}.jpg", (prefix, rgb.shape), mask is not None)
        write_photo(out, photo, rgb, mask)
        photos.append(photo)
    if video.is_panorama:
        stages.note(f"{path}: it is a 360 degree video; each frame is cut into the {len(FACES)} faces of a cube")
    return InputPhotos(out.folder, out.masks, tuple(photos), {})


def choose_frames(sharpness: np.ndarray, motion: np.ndarray, num_frames: int) -> np.ndarray:
    """Divide the camera movement into equal intervals, and select the sharpest frame of each.

    Args:
        sharpness: (F,) of each frame, in any unit.
        motion: (F,) movement since the frame before, as a fraction of the frame's longer side.
        num_frames: maximum; 0: one per ``STEP``, from ``MIN_FRAMES`` to ``MAX_FRAMES``.

    Returns:
        (K,) int64, indices in ascending order; fewer than ``num_frames`` if the camera jumps.
    """
    path = np.cumsum(motion + _MIN_MOTION)
    if num_frames == 0:
        num_frames = int(np.clip(round(path[-1] / STEP), MIN_FRAMES, MAX_FRAMES))
    if num_frames >= len(path):
        return np.arange(len(path))
    interval = np.minimum(path / path[-1] * num_frames, num_frames - 1).astype(int)
    best = {}
    for index in np.argsort(sharpness, kind="stable"):  # the sharpest last
        best[interval[index]] = index
    return np.sort(np.array(list(best.values())))


def measure_frames(video: Video, stages: Stages) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sharpness, motion and blankness of all frames.

    Returns:
        Sharpness (F,), the variance of the Laplacian; motion (F,), see :func:`choose_frames`; (F,) bool, True where a
        frame has one colour.

    Raises:
        InputError: the file is not a video, or has fewer than two frames.
    """
    sharpness, motion, is_blank, before = [], [], [], None
    for frame in stages.each("video", video.frames(), video.expected_frames(), "frame"):
        grey = _small_grey(frame, _SHARPNESS_SIZE)
        sharpness.append(cv2.Laplacian(grey, cv2.CV_32F).var())
        is_blank.append(grey.std() < _MIN_CONTRAST)
        small = _shrunk(grey, _MOTION_SIZE)
        motion.append(0.0 if before is None else _movement(before, small))
        before = small
    if len(sharpness) < 2:
        raise InputError(f"video {video.path} has only {len(sharpness)} frame(s), but at least 2 are needed; {FIX}")
    return np.array(sharpness), np.array(motion), np.array(is_blank)


def _movement(before: np.ndarray, after: np.ndarray) -> float:
    """Median optical flow between two (H,W) uint8 frames, as a fraction of the longer side."""
    if before.shape != after.shape:
        return STEP
    corners = cv2.goodFeaturesToTrack(before, _NUM_CORNERS, 0.01, 8)
    if corners is None or len(corners) < _MIN_CORNERS:
        return 0.0  # blank: more frames would not help
    flow = cv2.calcOpticalFlowPyrLK(before, after, corners, None)  # type: ignore[call-overload]  # OpenCV allows None
    moved, is_found, _ = flow
    is_found = is_found[:, 0] == 1
    if is_found.sum() < _MIN_CORNERS:
        return STEP  # a cut or a fast movement
    distances = np.linalg.norm((moved - corners)[is_found, 0], axis=1)
    return min(float(np.median(distances)) / max(before.shape), 1.0)


def _small_grey(frame: av.VideoFrame, size: int) -> np.ndarray:
    scale = min(1.0, size / max(frame.width, frame.height))
    width, height = (max(2, round(scale * side)) for side in (frame.width, frame.height))
    return frame.reformat(width=width, height=height, format="gray").to_ndarray()


def _shrunk(grey: np.ndarray, size: int) -> np.ndarray:
    scale = size / max(grey.shape)
    if scale >= 1:
        return grey
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
