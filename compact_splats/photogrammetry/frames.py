"""Selects frames of a video: spread evenly over the camera movement, the sharpest of each interval.

The video is decoded twice, first at a small size to measure it, so memory does not grow with its length.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np

from compact_splats.photogrammetry.photos import InputPhoto, InputPhotos, write_jpeg
from compact_splats.photogrammetry.stages import Stages
from compact_splats.utils.errors import InputError
from compact_splats.utils.pictures import MAX_PIXELS

STEP = 0.06  # movement between selected frames, as a fraction of the frame's longer side
MIN_FRAMES, MAX_FRAMES = 30, 200  # if the user sets no number
_SHARPNESS_SIZE, _MOTION_SIZE = 640, 320  # px, longer side of the measured frames
_NUM_CORNERS, _MIN_CORNERS = 200, 10
_MIN_MOTION = 1e-5  # per frame, so that a still camera is sampled evenly in time

# FFmpeg detects the format by content. Excluded are playlists of other files or addresses, and devices.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,m4v,ivf,mxf,gif,apng"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_FIX = "name a video of a camera or phone, or a folder of photos"


def extract_frames(video: Path, num_frames: int, work: Path, stages: Stages) -> InputPhotos:
    """Select frames of a video and write them, upright.

    Args:
        video: the file.
        num_frames: maximum; 0: depending on the camera movement.
        work: folder for the frames.
        stages: shows the progress.

    Raises:
        InputError: the file is not a video, or has fewer than two frames.
    """
    sharpness, motion = measure_frames(video, stages)
    chosen = choose_frames(sharpness, motion, num_frames)
    folder = work / "photos"
    folder.mkdir()
    photos = []
    wanted = set(chosen.tolist())
    frames = (frame for index, frame in enumerate(_decoded(video)) if index in wanted)
    for index, frame in stages.each("frames", zip(chosen.tolist(), frames, strict=False), len(chosen), "frame"):
        rgb = upright_pixels(frame)
        name = f"frame_{index:06d}.jpg"
        write_jpeg(folder / name, rgb)
        photos.append(InputPhoto(name, name, rgb.shape))
    return InputPhotos(folder, work / "masks", tuple(photos), {})


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


def measure_frames(video: Path, stages: Stages) -> tuple[np.ndarray, np.ndarray]:
    """Sharpness (F,), the variance of the Laplacian, and motion (F,) of all frames; see :func:`choose_frames`.

    Raises:
        InputError: the file is not a video, or has fewer than two frames.
    """
    sharpness, motion, before = [], [], None
    for frame in stages.each("video", _decoded(video), _expected_frames(video), "frame"):
        grey = _small_grey(frame, _SHARPNESS_SIZE)
        sharpness.append(cv2.Laplacian(grey, cv2.CV_32F).var())
        small = _shrunk(grey, _MOTION_SIZE)
        motion.append(0.0 if before is None else _movement(before, small))
        before = small
    if len(sharpness) < 2:
        raise InputError(f"video {video} has only {len(sharpness)} frame(s), but at least 2 are needed; {_FIX}")
    return np.array(sharpness), np.array(motion)


def upright_pixels(frame: av.VideoFrame) -> np.ndarray:
    """(H,W,3) uint8 RGB, rotated by the display rotation of the file."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


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


@contextmanager
def _opened(video: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    try:
        with av.open(str(video.absolute()), options=_OPTIONS, metadata_errors="replace") as container:
            if not container.streams.video:
                raise InputError(f"{video} contains no video; {_FIX}")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{video} can't be read as a video: '{error.strerror or error}'; {_FIX}") from error


def _decoded(video: Path) -> Iterator[av.VideoFrame]:
    """All frames; of a truncated file those before its end."""
    with _opened(video) as (container, stream):
        num_frames = 0
        try:
            for frame in container.decode(stream):
                if frame.width * frame.height > MAX_PIXELS:
                    size = f"{frame.width}x{frame.height} px"
                    raise InputError(f"frames of {video} are {size}, more than {MAX_PIXELS:,} pixels; {_FIX}")
                yield frame
                num_frames += 1
        except av.FFmpegError:
            if not num_frames:
                raise


def _expected_frames(video: Path) -> int | None:
    """The number of frames in the header; None if unknown."""
    with _opened(video) as (_, stream):
        return stream.frames or None
