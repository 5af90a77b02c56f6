"""Frames of a video: spread evenly over the camera's movement, and of each stretch the sharpest.

A video is decoded twice, first small to measure it, so that memory does not grow with its length.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np

from compact_splats.photogrammetry.photos import Ready, ReadyPhoto, write_jpeg
from compact_splats.photogrammetry.stages import Stages
from compact_splats.scene.pictures import MAX_PIXELS
from compact_splats.utils.errors import InputError

STEP = 0.06  # movement from one chosen frame to the next, as a share of the picture's longer side
FEWEST, MOST = 30, 200  # frames, where the user asks for no number
_SHARPNESS_SIZE, _MOTION_SIZE = 640, 320  # px, longer side of what is measured on
_CORNERS, _FEWEST_CORNERS = 200, 10
_LEAST_MOTION = 1e-5  # of each frame, so that a camera that stands still is sampled evenly in time

# A file names what is to be opened by its content. Left out are lists of other files and of addresses, and devices.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,m4v,ivf,mxf,gif,apng"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_FIX = "name a video of a camera or phone, or a folder of photos"


def ready_frames(video: Path, num_frames: int, work: Path, stages: Stages) -> Ready:
    """Choose frames of a video and write them, upright.

    Args:
        video: the file.
        num_frames: how many at most; 0: as many as the movement asks for.
        work: where a folder is made for them.
        stages: that shows the progress.

    Raises:
        InputError: this is no video, or it has less than two frames.
    """
    sharpness, motion = measure_frames(video, stages)
    chosen = choose_frames(sharpness, motion, num_frames)
    ready = Ready(work / "photos", work / "masks", (), {})
    ready.folder.mkdir()
    photos = []
    wanted = set(chosen.tolist())
    frames = (frame for index, frame in enumerate(_decoded(video)) if index in wanted)
    for index, frame in stages.each("frames", zip(chosen.tolist(), frames, strict=False), len(chosen), "frame"):
        rgb = upright_pixels(frame)
        name = f"frame_{index:06d}.jpg"
        write_jpeg(ready.folder / name, rgb)
        photos.append(ReadyPhoto(name, name, rgb.shape))
    return Ready(ready.folder, ready.masks, tuple(photos), {})


def choose_frames(sharpness: np.ndarray, motion: np.ndarray, num_frames: int) -> np.ndarray:
    """Cut the camera's way into stretches of the same length, and take the sharpest frame of each.

    Args:
        sharpness: (F,) of each frame, in any unit.
        motion: (F,) movement since the frame before, as a share of the picture's longer side.
        num_frames: how many at most; 0: one for each ``STEP``.

    Returns:
        (K,) int64, indices in ascending order; fewer than asked for where the camera jumps.
    """
    way = np.cumsum(motion + _LEAST_MOTION)
    if num_frames == 0:
        num_frames = int(np.clip(round(way[-1] / STEP), FEWEST, MOST))
    if num_frames >= len(way):
        return np.arange(len(way))
    stretch = np.minimum(way / way[-1] * num_frames, num_frames - 1).astype(int)
    best = {}
    for index in np.argsort(sharpness, kind="stable"):  # the sharpest last
        best[stretch[index]] = index
    return np.sort(np.array(list(best.values())))


def measure_frames(video: Path, stages: Stages) -> tuple[np.ndarray, np.ndarray]:
    """Sharpness (F,), the variance of the Laplacian, and motion (F,) of all frames, as :func:`choose_frames` wants.

    Raises:
        InputError: this is no video, or it has less than two frames.
    """
    sharpness, motion, before = [], [], None
    for frame in stages.each("video", _decoded(video), _expected_frames(video), "frame"):
        grey = _small_grey(frame, _SHARPNESS_SIZE)
        sharpness.append(cv2.Laplacian(grey, cv2.CV_32F).var())
        small = _shrunk(grey, _MOTION_SIZE)
        motion.append(0.0 if before is None else _movement(before, small))
        before = small
    if len(sharpness) < 2:
        raise InputError(video, "a video of two frames or more", str(len(sharpness)), _FIX)
    return np.array(sharpness), np.array(motion)


def upright_pixels(frame: av.VideoFrame) -> np.ndarray:
    """(H,W,3) uint8 RGB, turned as the file says that it is to be shown."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _movement(before: np.ndarray, after: np.ndarray) -> float:
    """The median way of what can be followed from one (H,W) uint8 picture to the next, in shares of the longer side."""
    if before.shape != after.shape:
        return STEP
    corners = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 8)
    if corners is None or len(corners) < _FEWEST_CORNERS:
        return 0.0  # nothing to see, which no frame more would change
    moved, is_found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)
    is_found = is_found[:, 0] == 1
    if is_found.sum() < _FEWEST_CORNERS:
        return STEP  # a cut, or a jerk
    way = np.linalg.norm((moved - corners)[is_found, 0], axis=1)
    return min(float(np.median(way)) / max(before.shape), 1.0)


def _small_grey(frame: av.VideoFrame, size: int) -> np.ndarray:
    scale = min(1.0, size / max(frame.width, frame.height))
    width, height = (max(2, round(scale * side)) for side in (frame.width, frame.height))
    return frame.reformat(width=width, height=height, format="gray").to_ndarray()


def _shrunk(grey: np.ndarray, size: int) -> np.ndarray:
    scale = size / max(grey.shape)
    if scale >= 1:
        return grey
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


@contextmanager
def _opened(video: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    try:
        with av.open(str(video.absolute()), options=_OPTIONS, metadata_errors="replace") as container:
            if not container.streams.video:
                raise InputError(video, "a video", "a file without pictures", _FIX)
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise InputError(video, "a video", f"'{error.strerror or error}'", _FIX) from error


def _decoded(video: Path) -> Iterator[av.VideoFrame]:
    """All frames; a file that breaks off gives those before that."""
    with _opened(video) as (container, stream):
        num_frames = 0
        try:
            for frame in container.decode(stream):
                if frame.width * frame.height > MAX_PIXELS:
                    found = f"{frame.width}x{frame.height}"
                    raise InputError(video, f"frames of at most {MAX_PIXELS:,} pixels", found, _FIX)
                yield frame
                num_frames += 1
        except av.FFmpegError:
            if not num_frames:
                raise


def _expected_frames(video: Path) -> int | None:
    """What the file says, or None where it doesn't."""
    with _opened(video) as (_, stream):
        return stream.frames or None
