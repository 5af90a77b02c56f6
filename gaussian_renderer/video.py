"""Videos of rendered views: MP4 (H.264) and GIF."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from compact_splats.gaussian_renderer import render
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write
from compact_splats.utils.images import pixels_of, to_uint8
from compact_splats.utils.usage import MB

_MAX_GIF_FPS = 50  # browsers slow down faster ones
_GIF_COLOURS = 128
_PALETTE_FRAMES = 12  # from which the palette is made
_QUALITY = "18"  # x264's constant rate factor: visually lossless
_BT709 = 1  # FFmpeg's number for the colour space of HD, which players assume


def render_video(
    path: Path, cameras: Sequence[Camera], fps: int, model: GaussianModel, background: Tensor, *, quiet: bool
) -> str:
    """Render and write a video.

    Args:
        path: .mp4 or .gif.
        cameras: one a frame, at least one, all of one size.
        fps: frames per second.
        model: the Gaussians.
        background: (3,) RGB in [0, 1].
        quiet: show no progress bar.

    Returns:
        A line for the user: number of frames, size and frame rate.

    Raises:
        InputError: the file can't be written.
    """
    views = tqdm(cameras, desc="video", unit="frame", disable=quiet)
    write_video(path, frames(views, model, background), fps)
    size, megabytes = f"{cameras[0].width}x{cameras[0].height} px", path.stat().st_size / MB
    return f"{path}: {len(cameras)} frames of {size} at {true_fps(path, fps):.4g} per second, {megabytes:.2f} MB"


@torch.no_grad()
def frames(cameras: Iterable[Camera], model: GaussianModel, background: Tensor) -> Iterator[np.ndarray]:
    """Rendered views, each (H,W,3) uint8 RGB."""
    for camera in cameras:
        yield pixels_of(to_uint8(render(camera, model, background).image))


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Write a video. An MP4 is encoded frame by frame; a GIF keeps all frames in memory.

    Args:
        path: .mp4 (H.264, yuv420p) or .gif (one palette, loops); written atomically.
        frames: at least one, all (H,W,3) uint8 RGB of one size; even width and height for .mp4.
        fps: frames per second; see :func:`true_fps`.

    Raises:
        InputError: the file can't be written, or PyAV is not installed.
    """
    with atomic_write(path) as temporary:
        (_write_gif if _is_gif(path) else _write_mp4)(temporary, frames, fps)


def true_fps(path: Path, fps: int) -> float:
    """The frame rate of a file written with ``fps``: the delay between the frames of a GIF is a multiple of 10 ms."""
    return 100 / round(100 / min(fps, _MAX_GIF_FPS)) if _is_gif(path) else fps


def _is_gif(path: Path) -> bool:
    return path.suffix.lower() == ".gif"


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    try:
        import av  # optional
    except ImportError as error:
        raise InputError("writing .mp4 needs the package av: pip install av, or name a .gif") from error
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = None
        for pixels in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=fps, options={"crf": _QUALITY})
                stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
                stream.color_primaries = stream.color_trc = stream.colorspace = _BT709
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=_BT709)))
        assert stream is not None, "a video without frames"
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    pictures = [Image.fromarray(pixels) for pixels in frames]
    palette = _palette(pictures)
    first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    delay_ms = round(1000 / true_fps(path, fps))
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=delay_ms, loop=0)


def _palette(pictures: list[Image.Image]) -> Image.Image:
    """One palette for all frames, from some of them. One palette and no dithering make the file smaller."""
    chosen = pictures[:: max(1, len(pictures) // _PALETTE_FRAMES)]
    column = np.concatenate([np.asarray(picture) for picture in chosen])
    return Image.fromarray(column).quantize(_GIF_COLOURS, method=Image.Quantize.FASTOCTREE)
