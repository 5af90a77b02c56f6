"""Videos of rendered frames: MP4 that browsers play, GIF that READMEs show. Knows no cameras; there is no sound."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write

SUFFIXES = (".mp4", ".gif")
MAX_SIDE = 8192  # px
FASTEST_GIF = 50  # frames a second: browsers slow down what claims to be faster
GIF_WIDTH = 320  # px, where no size is asked for
_GIF_COLOURS = 128
_PALETTE_FRAMES = 12  # that the palette is made from
_QUALITY = "18"  # x264's constant rate factor: hardly to be told from the frames
_BT709 = 1  # FFmpeg's number for the colours of HD, which players assume


def is_gif(path: Path) -> bool:
    """Whether a file is to be a GIF."""
    return path.suffix.lower() == ".gif"


def check_name(path: Path) -> None:
    """Refuse the name of a file that is no kind of video.

    Raises:
        InputError: its suffix is another one.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError("--video", f"a name that ends in {' or '.join(SUFFIXES)}", str(path), "name it so")


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse a size that a kind of video can't have.

    Raises:
        InputError: it is too small, too large, or for H.264 with its halved colours, odd.
    """
    step = 1 if is_gif(path) else 2
    if any(side % step or not 2 <= side <= MAX_SIDE for side in (width, height)):
        kind = "numbers" if step == 1 else "even numbers"
        found, fix = f"{width} x {height}", "give others, in px" if step == 1 else "give others, in px, or write a .gif"
        raise InputError("--size", f"two {kind} from 2 to {MAX_SIDE}", found, fix)


def default_size(path: Path, width: int, height: int) -> tuple[int, int]:
    """(width, height) px for frames of a picture's size: even for MP4, and for a GIF no wider than READMEs want."""
    if is_gif(path):
        shown = min(width, GIF_WIDTH)
        return max(2, shown), max(2, round(height * shown / width))
    shrink = min(1.0, MAX_SIDE / max(width, height))
    return tuple(max(2, int(side * shrink) // 2 * 2) for side in (width, height))


def true_rate(path: Path, fps: int) -> float:
    """Frames a second of a file for which ``fps`` were asked: a GIF counts in hundredths of a second."""
    return 100 / round(100 / min(fps, FASTEST_GIF)) if is_gif(path) else fps


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Write a video; frames are taken one by one, as they are made, into an MP4, and all at once into a GIF.

    Args:
        path: .mp4 (H.264, yuv420p) or .gif (one palette, loops); replaced in one move when it is complete.
        frames: at least one, all (H,W,3) uint8 RGB of one size that ``check_size`` lets pass.
        fps: frames a second; what a GIF makes of it says ``true_rate``.

    Raises:
        InputError: the file can't be written, or PyAV is missing.
    """
    with atomic_write(path) as temporary:
        (_write_gif if is_gif(path) else _write_mp4)(temporary, frames, fps)


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    try:
        import av  # only here: no other command has to wait for it
    except ImportError as error:
        raise InputError(
            "--video", "the package av for .mp4", f"'{error}'", "pip install av, or name a .gif"
        ) from error
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
    delay_ms = round(1000 / true_rate(path, fps))
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=delay_ms, loop=0)


def _palette(pictures: list[Image.Image]) -> Image.Image:
    """The colours that serve all pictures, from some of them. One palette, undithered: both make the file smaller."""
    chosen = pictures[:: max(1, len(pictures) // _PALETTE_FRAMES)]
    column = np.concatenate([np.asarray(picture) for picture in chosen])
    return Image.fromarray(column).quantize(_GIF_COLOURS, method=Image.Quantize.FASTOCTREE)
