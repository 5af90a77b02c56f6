"""Reads videos: frames as they are meant to be seen, in sRGB, and notes on what the user may not expect.

PyAV decodes. What the file says of colours, fields, cropping, shape of pixels, rotation, views and projection is
applied here. Some of it PyAV does not tell: ``mp4_boxes`` reads it from the file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
from av.stream import Disposition

from compact_splats.photogrammetry.mp4_boxes import SampleEntry, has_index
from compact_splats.utils.colours import (
    BT709,
    BT2020,
    CHROMATICITIES,
    HLG,
    PQ,
    UNKNOWN,
    is_srgb,
    rgb_to_xyz,
    to_srgb,
)
from compact_splats.utils.errors import InputError
from compact_splats.utils.pictures import MAX_PIXELS

# FFmpeg detects the format by content. Excluded are playlists of other files or addresses, and devices.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,m4v,ivf,mxf,gif,apng"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
FIX = "name a video of a camera or phone, or a folder of photos"

_LIMITED, _FULL = 1, 2  # AVColorRange
# Matrices by code of H.273, as weights of red and blue in luma.
_LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
         9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}  # fmt: skip
_RGB_MATRIX, _YCGCO, _DERIVED = 0, 8, 12
_OF_TELEVISION = (5, 6, 7)  # primaries that hardly differ from those of BT.709
_MATRIX_NAMES = {11: "SMPTE 2085", 13: "chroma-derived", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-R", 17: "YCgCo-R"}
_HD = (1280, 720)  # px; an untagged video of at least this width or height is BT.709
_LIMITED_GREY = ("h264", "hevc", "av1", "vp9", "mpeg2video")  # grey of other codecs has the full range
_SIDE_BY_SIDE, _TOP_BOTTOM, _INTERLEAVED = 1, 2, (4, 5, 6, 7)  # AVStereo3DType
_EQUIRECTANGULAR, _RECTILINEAR = 0, 4  # AVSphericalProjection
_SHORT = 0.98  # of the length that the file names; below, the video ends early
_SHORT_OF_ALL_STREAMS = 0.9  # where only the length of picture and sound together is known


class Video:
    """A video file.

    Attributes:
        path: the file.
        notes: what the user should know; complete after all frames have been read once.
        is_panorama: frames are equirectangular; known after the first frame.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.is_panorama = path, False
        self.notes: list[str] = []
        self._entry = SampleEntry()
        self._codec, self._aspect, self._stereo = "", 1.0, 0
        self._display: np.ndarray | None = None

    def frames(self) -> Iterator[av.VideoFrame]:
        """All frames that can be decoded, without damaged ones; fields are joined.

        Raises:
            InputError: the file is not a video, or of a kind that can't be shown.
        """
        with self._opened() as (container, stream):
            length, last, count, damaged, fields = _length(container, stream), 0.0, 0, 0, _Fields(self, stream)
            error: av.FFmpegError | None = None
            is_broken = False  # until the next key frame, frames build on one that is damaged
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except av.FFmpegError as broken:  # the file ends inside of a packet
                    error = error or broken
                    break
                try:
                    decoded = packet.decode()
                except av.FFmpegError as broken:
                    error, damaged, is_broken = error or broken, damaged + 1, True
                    continue
                if packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0) - (stream.start_time or 0)) * packet.time_base)
                    last = max(last, end)
                for frame in decoded:
                    is_broken = (is_broken or frame.is_corrupt) and not frame.key_frame
                    if is_broken or frame.is_corrupt:
                        damaged += 1
                        continue
                    self._check(frame, first=not count)
                    yield from fields.join(frame)
                    count += 1
            yield from fields.join(None)
            if error and not count:
                raise error
            self._note_losses(count, damaged, last, length, stream)

    def expected_frames(self) -> int | None:
        """The number of frames in the header; None if unknown."""
        with self._opened() as (_, stream):
            return stream.frames or None

    def pixels(self, frame: av.VideoFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """(H,W,3) uint8 sRGB and, if the video has alpha, (H,W) uint8 alpha, both upright and of square pixels."""
        rgb, alpha = self._in_srgb(frame)
        if alpha is None:
            return self._shown(rgb), None
        return self._shown(rgb), self._shown(alpha)

    @contextmanager
    def _opened(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        try:
            with av.open(str(self.path.absolute()), options=_OPTIONS, metadata_errors="replace") as container:
                stream = self._stream(container)
                self._entry = SampleEntry.read(self.path, stream.id)
                self._aspect, self._codec = float(stream.sample_aspect_ratio or 1), stream.codec_context.codec.name
                if self._entry.is_dolby_without_base:
                    raise InputError(
                        f"{self.path} is Dolby Vision without a base picture of usual colours (profile "
                        f"{self._entry.dolby_profile}); export it as HDR10, HLG or SDR"
                    )
                stream.thread_type = "AUTO"
                yield container, stream
        except (av.FFmpegError, OSError) as error:
            reason = f"can't be read as a video: '{error.strerror or error}'"
            if not has_index(self.path):
                reason = "has no index: its recording or its copy was cut off"
            raise InputError(f"{self.path} {reason}; {FIX}") from error

    def _stream(self, container: av.container.InputContainer) -> av.VideoStream:
        """The largest video, without pictures of covers and thumbnails."""
        pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
        streams = [each for each in container.streams.video if not each.disposition & pictures]
        streams = [each for each in streams if each.codec_context is not None]
        if not streams:
            raise InputError(f"{self.path} contains no video; {FIX}")
        sizes = [each.codec_context.width * each.codec_context.height for each in streams]
        chosen = streams[sizes.index(max(sizes))]
        if len(streams) > 1:
            size = f"{chosen.codec_context.width}x{chosen.codec_context.height} px"
            self._note(f"it contains {len(streams)} videos; the largest one is used, stream {chosen.index} of {size}")
        return chosen

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _check(self, frame: av.VideoFrame, first: bool) -> None:
        """Look at the header of a frame; the first one has what holds for all."""
        if frame.width * frame.height > MAX_PIXELS:
            size = f"{frame.width}x{frame.height} px"
            raise InputError(f"frames of {self.path} are {size}, more than {MAX_PIXELS:,} pixels; {FIX}")
        if not first:
            return
        name = frame.format.name
        if frame.format.is_bayer or "f16" in name or "f32" in name:
            raise InputError(f"{self.path} is a raw video ({name}), which is not read; export it as a usual video")
        self._display = _display_matrix(_side_data(frame, "DISPLAYMATRIX"))
        if self._display is not None and np.abs(self._display).sum() > 2.02:
            self._note("its rotation is not a multiple of 90 degrees; the nearest is applied")
        spherical, stereo = _side_data(frame, "SPHERICAL"), _side_data(frame, "STEREO3D")
        if spherical is not None and spherical[0] != _RECTILINEAR:
            if spherical[0] != _EQUIRECTANGULAR or spherical[4:8].any():
                raise InputError(
                    f"{self.path} is a 360 degree or VR180 video of a projection that is not read; export it as "
                    "equirectangular, or as a flat video"
                )
            self.is_panorama = True
        self._stereo = 0 if stereo is None else int(stereo[0])
        if self._stereo in _INTERLEAVED:
            raise InputError(f"{self.path} mixes two views in each frame (stereo 3D); export one of them")
        if self._stereo in (_SIDE_BY_SIDE, _TOP_BOTTOM):
            half = "left" if self._stereo == _SIDE_BY_SIDE else "upper"
            self._note(f"it has two views in each frame (stereo 3D); the {half} one is used")
        elif self._stereo:
            self._note("it is a spatial video; its base view is used")
        if abs(self._aspect - 1) > 0.001:
            self._note(f"its pixels are not square ({self._aspect:.4g} to 1); frames are stretched")
        if self._entry.crop and self._entry.crop[:2] != (frame.width, frame.height):
            self._note(f"its frames are cropped to {'x'.join(str(round(side)) for side in self._entry.crop[:2])} px")
        primaries, transfer, _, _ = self._colours(frame)
        if transfer in (PQ, HLG):
            kind = "PQ (HDR10)" if transfer == PQ else "HLG"
            kind += f", Dolby Vision profile {self._entry.dolby_profile}" if self._entry.dolby_profile else ""
            self._note(f"it is HDR ({kind}); it is converted to SDR, with its reference white of 203 cd/m2 as white")
        elif not is_srgb(primaries, transfer) and primaries not in _OF_TELEVISION:
            self._note("its colours are not those of BT.709; they are converted to sRGB")

    def _colours(self, frame: av.VideoFrame) -> tuple[int, int, int, bool]:
        """Codes of primaries, transfer function and matrix, and whether the range is full."""
        primaries, transfer, matrix = frame.color_primaries, frame.color_trc, frame.colorspace
        codec, name = self._codec, frame.format.name
        is_grey = not frame.format.is_rgb and len(frame.format.components) < 3 and not frame.format.has_palette
        is_rgb = frame.format.is_rgb or frame.format.has_palette
        is_full = frame.color_range == _FULL or name.startswith("yuvj")
        if frame.color_range not in (_LIMITED, _FULL):
            is_full |= is_rgb or is_grey and codec not in _LIMITED_GREY
        is_wide = primaries == BT2020 or transfer in (PQ, HLG)
        if is_rgb:
            matrix = _RGB_MATRIX
        elif matrix in UNKNOWN:  # RGB, which these pixels are not, is as good as unknown
            is_hd = frame.width >= _HD[0] or frame.height >= _HD[1]
            matrix = 9 if is_wide else 1 if is_hd else 6
        if primaries in UNKNOWN and (is_wide or matrix in (9, 10)):
            primaries = BT2020
        return primaries, transfer, matrix, is_full

    def _in_srgb(self, frame: av.VideoFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """The stored pixels in sRGB, and alpha."""
        primaries, transfer, matrix, is_full = self._colours(frame)
        if matrix in _MATRIX_NAMES:
            raise InputError(f"colours of {self.path} are {_MATRIX_NAMES[matrix]}, which is not read; export it again")
        planes, bits, has_alpha = _planes(frame, is_full)
        alpha = None
        if has_alpha:
            *planes, last = planes
            alpha = last if bits == 8 else (last >> (bits - 8)).astype(np.uint8)
        if len(planes) == 1:  # grey
            planes, matrix = planes * 3, _RGB_MATRIX
        to_rgb = _rgb_of_planes(matrix, primaries, is_full, bits)
        as_they_are = is_srgb(primaries, transfer)
        rgb = np.empty((*planes[0].shape, 3), np.uint8)
        step = max(1, (1 << 20) // rgb.shape[1])
        for top in range(0, len(rgb), step):
            block = cv2.merge([plane[top : top + step] for plane in planes]).astype(np.float32)
            values = cv2.transform(block, to_rgb.astype(np.float32)).clip(0, 1)
            if as_they_are:
                rgb[top : top + step] = np.rint(values * 255)
            else:
                rgb[top : top + step] = to_srgb(np.rint(values * 65535).astype(np.uint16), primaries, transfer)
        return rgb, alpha

    def _shown(self, stored: np.ndarray) -> np.ndarray:
        """Cropped, one view, of square pixels, upright."""
        if self._entry.crop:
            width, height, right, down = self._entry.crop
            left = round((stored.shape[1] - width) / 2 + right)
            top = round((stored.shape[0] - height) / 2 + down)
            stored = stored[max(0, top) : max(0, top + round(height)), max(0, left) : max(0, left + round(width))]
        aspect, shape = self._aspect, stored.shape[1] / stored.shape[0]
        if self._stereo == _SIDE_BY_SIDE:  # half as wide as tall views are squeezed into a usual frame
            stored = stored[:, : stored.shape[1] // 2]
            aspect *= 2 if shape * aspect < 2.2 and not self.is_panorama else 1
        elif self._stereo == _TOP_BOTTOM:
            stored = stored[: stored.shape[0] // 2]
            aspect *= 0.5 if shape * aspect > 1.2 and not self.is_panorama else 1
        if abs(aspect - 1) > 0.001:
            height, width = stored.shape[:2]
            size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
            stored = cv2.resize(stored, size, interpolation=cv2.INTER_CUBIC)
        if self._display is not None:
            (a, c), (b, d) = self._display
            is_transposed = abs(a) + abs(d) < abs(b) + abs(c)
            if is_transposed:
                stored, a, d = stored.swapaxes(0, 1), c, b
            stored = stored[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
        return np.ascontiguousarray(stored)

    def _note_losses(
        self, count: int, damaged: int, last: float, length: tuple[float, float] | None, stream: av.VideoStream
    ) -> None:
        if damaged:
            self._note(f"{damaged} damaged frames are left out; {count} could be read")
        if length is not None and 0 < last < length[0] * length[1]:
            of = stream.frames if stream.frames > count else round(count * length[0] / last)
            self._note(f"it ends early: {count} of about {of} frames could be read, {last:.1f} of {length[0]:.1f} s")


class _Fields:
    """Joins the two fields of interlaced frames, by FFmpeg's filter bwdif; other frames pass."""

    def __init__(self, video: Video, stream: av.VideoStream) -> None:
        self._video, self._stream = video, stream
        self._graph: av.filter.Graph | None = None
        self._format: tuple | None = None

    def join(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """The frames that are complete now; all that are left after None."""
        given = None if frame is None else (frame.width, frame.height, frame.format.name)
        if self._graph is not None and given != self._format:
            self._graph.vpush(None)
            yield from self._pulled()
            self._graph = None
        if frame is None:
            return
        if self._graph is None and frame.interlaced_frame:
            self._video._note("it is interlaced; its fields are joined")
            graph, self._format = av.filter.Graph(), given
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=self._stream.time_base
            )
            filters = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
            graph.link_nodes(source, *filters).configure()
            self._graph = graph
        if self._graph is None:
            yield frame
        else:
            self._graph.vpush(frame)
            yield from self._pulled()

    def _pulled(self) -> Iterator[av.VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield frame


def _side_data(frame: av.VideoFrame, name: str) -> np.ndarray | None:
    """The fields of a structure of FFmpeg, int32."""
    side = frame.side_data.get(name)
    if side is None:
        return None
    content = bytes(side)  # type: ignore[call-overload]  # PyAV's hint has no buffer
    return np.frombuffer(content[: len(content) // 4 * 4], np.int32)


def _planes(frame: av.VideoFrame, is_full: bool) -> tuple[list[np.ndarray], int, bool]:
    """(H,W) of R, G, B or Y, Cb, Cr or grey, then alpha; their bits; and whether the last is alpha."""
    components, has_palette = frame.format.components, frame.format.has_palette
    bits = max(8, *(component.bits for component in components), 0)
    has_alpha = any(component.is_alpha for component in components) or has_palette
    if frame.format.is_rgb or has_palette:
        kind = "gbrap" if has_alpha else "gbrp"
    else:
        kind = "gray" if len(components) == 1 else "yuva444p" if has_alpha else "yuv444p"
    if has_alpha and bits in (9, 14):  # FFmpeg has not all formats
        bits = 16
    span = _FULL if is_full else _LIMITED
    frame = frame.reformat(format=kind + (f"{bits}le" if bits > 8 else ""), src_color_range=span, dst_color_range=span)
    dtype = np.dtype("<u2" if bits > 8 else "u1")
    rows = [
        np.frombuffer(memoryview(plane), dtype).reshape(-1, plane.line_size // dtype.itemsize) for plane in frame.planes
    ]
    planes = [plane[: frame.height, : frame.width] for plane in rows]
    return [planes[2], planes[0], planes[1], *planes[3:]] if kind.startswith("gb") else planes, bits, has_alpha


def _rgb_of_planes(matrix: int, primaries: int, is_full: bool, bits: int) -> np.ndarray:
    """(3,4) float64, stored numbers and one to RGB in [0, 1], by ITU-T H.273."""
    unit = 1 << (bits - 8)
    black, white, chroma = (0, (1 << bits) - 1, (1 << bits) - 1) if is_full else (16 * unit, 235 * unit, 224 * unit)
    if matrix == _RGB_MATRIX:
        return np.hstack([np.eye(3), np.full((3, 1), -float(black))]) / (white - black)
    if matrix == _YCGCO:
        colours = np.array([[1, -1, 1], [1, 1, 0], [1, -1, -1]], float)
    else:
        if matrix == _DERIVED:
            red, _, blue = rgb_to_xyz(CHROMATICITIES.get(primaries, CHROMATICITIES[BT709]))[1]
        else:
            red, blue = _LUMA.get(matrix, _LUMA[1])
        green = 1 - red - blue
        from_blue, from_red = 2 * (1 - blue), 2 * (1 - red)
        colours = np.array([
            [1, 0, from_red], [1, -from_blue * blue / green, -from_red * red / green], [1, from_blue, 0]
        ])  # fmt: skip
    scale = np.array([1 / (white - black), 1 / chroma, 1 / chroma])
    middle = 128 * unit
    return np.hstack([colours * scale, -(colours * scale) @ np.array([[black], [middle], [middle]])])


def _display_matrix(words: np.ndarray | None) -> np.ndarray | None:
    """(2,2) with entries up to 1, from stored directions to those on the screen; None if there is nothing to turn."""
    if words is None or len(words) != 9:
        return None
    turn = np.array([[words[0], words[3]], [words[1], words[4]]]) / 65536
    size = np.abs(turn).max()
    return None if size == 0 else turn / size


def _length(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[float, float] | None:
    """The length in seconds that the file names, and the fraction of it below which the video ends early."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base), _SHORT
    tag = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = map(float, tag)
        return 3600 * hours + 60 * minutes + seconds, _SHORT
    except ValueError:
        return (container.duration / 1e6, _SHORT_OF_ALL_STREAMS) if container.duration else None
