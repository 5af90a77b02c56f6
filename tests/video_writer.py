"""Writes small videos as cameras and programs do: any matrix, range, transfer function, pixel format and container."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
PLAIN = {"yuv444p": 8, "yuv444p10le": 10, "yuv444p12le": 12, "yuv444p16le": 16}


def to_planes(rgb: np.ndarray, matrix: int, full: bool, bits: int) -> np.ndarray:
    """(H,W,3) R'G'B' in [0, 1] to (3,H,W) Y', Cb, Cr, as ITU-R BT.709 and BT.2020 write them."""
    red, blue = WEIGHTS[matrix]
    luma = rgb @ [red, 1 - red - blue, blue]
    planes = [luma, (rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    top = 2**bits - 1
    if full:
        numbers = [planes[0] * top, *(plane * top + 2 ** (bits - 1) for plane in planes[1:])]
    else:
        unit = 2 ** (bits - 8)
        numbers = [(219 * planes[0] + 16) * unit, *((224 * plane + 128) * unit for plane in planes[1:])]
    return np.stack(numbers).round().clip(0, top).astype(np.uint8 if bits == 8 else np.uint16)


def write(
    path: Path,
    frames,
    codec: str = "ffv1",
    pix_fmt: str = "yuv444p",
    tags: tuple[int, int, int, int] = (2, 2, 2, 0),
    matrix: int = 6,
    full: bool = False,
    options: dict | None = None,
    aspect: Fraction | None = None,
    display: list[int] | None = None,
    also=None,
) -> None:
    """Write a video.

    Args:
        path: the file; its suffix names the container.
        frames: (H,W,3) float R'G'B' in [0, 1] in the colours of the file, or ``av.VideoFrame``.
        codec: of FFmpeg.
        pix_fmt: of the file.
        tags: codes of primaries, transfer function, matrix and range; 2, 2, 2, 0: none.
        matrix: which the numbers are computed with.
        full: likewise.
        options: of the encoder.
        aspect: of a pixel.
        display: nine numbers of the display matrix.
        also: called with the container after the stream is added, and again with None at the end.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 10)
        frames = [
            frame if isinstance(frame, av.VideoFrame) else in_format(frame, pix_fmt, matrix, full) for frame in frames
        ]
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pix_fmt
        stream.options = options or {}
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = tags
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if display is not None:
            stream.set_display_matrix(display)
        if also is not None:
            also(container)
        for frame in frames:
            frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = tags
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def in_format(rgb: np.ndarray, pix_fmt: str, matrix: int, full: bool) -> av.VideoFrame:
    """A frame. Sub-sampled formats are made of 4:4:4 of the same depth by FFmpeg, without another matrix."""
    if pix_fmt.startswith(("rgb", "bgr", "gbr", "pal")):
        frame = av.VideoFrame.from_ndarray((rgb * 65535).round().astype(np.uint16), format="rgb48le")
        return frame.reformat(format=pix_fmt)
    bits = next(
        (int(number) for number in ("10", "12", "16") if number in pix_fmt.replace("420p", "").replace("p010", "10")), 8
    )
    plain = "yuv444p" + (f"{bits}le" if bits > 8 else "")
    planes = to_planes(rgb, matrix, full, bits)
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], plain)
    for plane, numbers in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // numbers.itemsize), numbers.dtype)
        rows[:, : numbers.shape[1]] = numbers
        plane.update(rows.tobytes())
    span = 2 if full else 1
    return frame if pix_fmt == plain else frame.reformat(format=pix_fmt, src_color_range=span, dst_color_range=span)


def insert_box(path: Path, name: bytes, content: bytes) -> None:
    """Add a box to the description of the first video of an MP4 whose index is at the end."""
    data = path.read_bytes()
    at = data.rindex(b"stsd") + 4 + 8  # of the first entry: behind version, flags and the number of entries
    length = struct.unpack_from(">I", data, at)[0]
    box = struct.pack(">I", 8 + len(content)) + name + content
    data = bytearray(data[: at + length] + box + data[at + length :])
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
        place = (
            bytes(data).rindex(parent) - 4 if parent != b"trak" else bytes(data).index(parent, data.rindex(b"moov")) - 4
        )
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + len(box))
    struct.pack_into(">I", data, at, length + len(box))
    path.write_bytes(data)
