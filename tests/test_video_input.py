"""Frames of videos look as they are meant to: colours, shape of pixels, fields, views, and what is said of them."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from icc_writer import P3, SRGB, srgb_curve, to_d50
from test_colours import RGB, hdr
from video_writer import insert_box, write

from compact_splats.photogrammetry.frames import extract_frames, measure_frames
from compact_splats.photogrammetry.stages import Stages
from compact_splats.photogrammetry.video import Video
from compact_splats.utils.errors import InputError
from compact_splats.utils.signals import StopRequest

WIDTH, HEIGHT = 96, 64
REC2020 = ((0.3127, 0.3290), (0.708, 0.292), (0.170, 0.797), (0.131, 0.046))


def patches(colours: np.ndarray, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(H,W,3), six upright stripes."""
    return np.asarray(colours, float).repeat(width // 6, 0)[None].repeat(height, 0)


def of_each(pixels: np.ndarray) -> np.ndarray:
    """(6,3), the colour in the middle of each stripe."""
    step = pixels.shape[1] // 6
    return pixels[pixels.shape[0] // 2, step // 2 :: step][:6].astype(float)


def read(path) -> tuple[list[np.ndarray], list[str]]:
    """All frames, and the notes."""
    video = Video(path)
    return [video.pixels(frame)[0] for frame in video.frames()], video.notes


def colours_of(path) -> np.ndarray:
    return of_each(read(path)[0][0])


def sdr(primaries) -> np.ndarray:
    """(6,3) in [0, 1], ``RGB`` in other primaries with the curve of sRGB."""
    light = srgb_curve(RGB / 255.0) @ (np.linalg.inv(to_d50(primaries)) @ to_d50(SRGB)).T
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


# ---- colours ----


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p", "yuv422p10le", "yuv420p12le", "yuv444p16le"])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_matrix_range_and_depth_are_as_tagged(tmp_path, matrix, pix_fmt, full):
    """With the tag, against numbers that the formulas of the standards give."""
    tags = (1, 1, matrix, 2 if full else 1)
    write(tmp_path / "v.mkv", [patches(RGB / 255)] * 2, "ffv1", pix_fmt, tags, matrix, full)
    assert np.abs(colours_of(tmp_path / "v.mkv") - RGB).max() <= 2


@pytest.mark.parametrize(
    ("width", "height", "matrix"), [(96, 64, 6), (1280, 64, 1), (96, 720, 1), (720, 576, 6), (1278, 718, 6)]
)
def test_without_a_tag_the_size_decides(tmp_path, width, height, matrix):
    picture = patches(RGB / 255, width // 6 * 6, height)
    picture = np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), "edge")
    write(tmp_path / "v.mkv", [picture], "ffv1", "yuv420p", matrix=matrix)
    assert np.abs(of_each(read(tmp_path / "v.mkv")[0][0][:, : width // 6 * 6]) - RGB).max() <= 2


@pytest.mark.parametrize("codec", ["libx265", "libx264", "prores_ks", "ffv1"])
@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_converted_and_said(tmp_path, codec, transfer):
    """Phones write HLG in HEVC with 10 bits; a white of 250 stays one."""
    colours = np.minimum(RGB, 250)
    pix_fmt = {"prores_ks": "yuv422p10le"}.get(codec, "yuv420p10le")
    options = {"libx265": {"crf": "4", "x265-params": "log-level=none"}, "libx264": {"crf": "4"}}.get(codec)
    path = tmp_path / f"v.{'mov' if codec != 'ffv1' else 'mkv'}"
    frame = patches(hdr(colours / 255.0, transfer))
    write(path, [frame] * 3, codec, pix_fmt, (9, transfer, 9, 1), 9, options=options)
    frames, notes = read(path)
    # Worst measured: 6, of the dark channels of the red, by the noise of the codec.
    assert np.abs(of_each(frames[0]) - colours).max() <= 8
    assert np.abs(of_each(frames[0])[3:] - colours[3:]).max() <= 3
    assert any("HDR" in note and "203" in note for note in notes)


@pytest.mark.parametrize("tags", [(2, 18, 2, 1), (9, 18, 2, 1), (2, 18, 9, 1), (9, 16, 0, 0)])
def test_hdr_with_missing_tags_is_bt_2020(tmp_path, tags):
    frame = patches(hdr(RGB / 255.0, tags[1]))
    write(tmp_path / "v.mkv", [frame], "ffv1", "yuv444p10le", tags, 9)
    assert np.abs(colours_of(tmp_path / "v.mkv") - RGB).max() <= 6


@pytest.mark.parametrize(("code", "primaries"), [(9, REC2020), (12, P3)])
def test_wide_primaries_of_sdr_are_converted(tmp_path, code, primaries):
    matrix = 9 if code == 9 else 1
    write(tmp_path / "v.mkv", [patches(sdr(primaries))], "ffv1", "yuv444p10le", (code, 1, matrix, 1), matrix)
    frames, notes = read(tmp_path / "v.mkv")
    assert np.abs(of_each(frames[0]) - RGB).max() <= 2 and len(notes) == 1


@pytest.mark.parametrize("codec, pix_fmt, suffix", [
    ("ffv1", "gbrp10le", "mkv"), ("png", "rgb24", "mov"), ("png", "rgb48be", "mov"), ("qtrle", "rgb24", "mov"),
    ("rawvideo", "bgr24", "avi"), ("libx264rgb", "rgb24", "mp4"), ("ffv1", "gbrp16le", "mkv"),
])  # fmt: skip
def test_rgb_stays_rgb(tmp_path, codec, pix_fmt, suffix):
    options = {"crf": "0"} if codec == "libx264rgb" else {}
    write(tmp_path / f"v.{suffix}", [patches(RGB / 255)], codec, pix_fmt, options=options)
    assert np.abs(colours_of(tmp_path / f"v.{suffix}") - RGB).max() <= 1


@pytest.mark.parametrize(("codec", "pix_fmt", "limited"), [
    ("ffv1", "gray", False), ("ffv1", "gray10le", False), ("ffv1", "gray", True), ("libx264", "gray", True),
    ("png", "gray", False),
])  # fmt: skip
def test_grey_keeps_its_brightness(tmp_path, codec, pix_fmt, limited):
    bits = 10 if "10" in pix_fmt else 8
    ramp = np.linspace(0, 255, 6).round()
    numbers = (ramp / 255 * 219 + 16) if limited else ramp / 255 * (2**bits - 1)
    numbers = numbers.repeat(16)[None].repeat(HEIGHT, 0).round().astype(np.uint8 if bits == 8 else np.uint16)
    tags = (2, 2, 2, 1 if limited and codec == "ffv1" else 0)
    frame = av.VideoFrame.from_ndarray(numbers, format=pix_fmt)
    path = tmp_path / f"v.{'mov' if codec == 'png' else 'mkv'}"
    write(path, [frame] * 2, codec, pix_fmt, tags, options={"crf": "1"} if codec == "libx264" else {})
    found = colours_of(path)
    assert np.abs(found - ramp[:, None]).max() <= 2


def test_motion_jpeg_has_the_full_range(tmp_path):
    write(
        tmp_path / "v.avi", [patches(RGB / 255)], "mjpeg", "yuvj444p", (2, 2, 5, 2), 5, True, {"qscale": "1", "q": "1"}
    )
    assert np.abs(colours_of(tmp_path / "v.avi")[3:] - RGB[3:]).max() <= 4


@pytest.mark.parametrize(
    "codec, pix_fmt, suffix",
    [
        ("ffv1", "yuva444p10le", "mkv"),
        ("qtrle", "argb", "mov"),
        ("prores_ks", "yuva444p10le", "mov"),
        ("png", "rgba", "mov"),
    ],
)
def test_alpha_is_a_mask(tmp_path, codec, pix_fmt, suffix):
    rgba = np.dstack([patches(RGB), np.where(np.arange(WIDTH) < WIDTH // 2, 0, 255)[None].repeat(HEIGHT, 0)]).astype(
        np.uint8
    )
    frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pix_fmt)
    write(tmp_path / f"v.{suffix}", [frame] * 2, codec, pix_fmt)
    inputs = extract_frames(tmp_path / f"v.{suffix}", 0, tmp_path, Stages(StopRequest(), quiet=True))
    assert [photo.has_mask for photo in inputs.photos] == [True, True]
    from PIL import Image

    mask = np.asarray(Image.open(inputs.masks / f"{inputs.photos[0].name}.png"))
    assert not mask[:, : WIDTH // 2 - 2].any() and mask[:, WIDTH // 2 + 2 :].all()


@pytest.mark.parametrize("matrix, said", [(14, "ICtCp"), (11, "SMPTE 2085")])
def test_colours_that_cannot_be_read_are_refused(tmp_path, matrix, said):
    write(tmp_path / "v.mkv", [patches(RGB / 255)] * 2, "ffv1", "yuv444p10le", (9, 16, matrix, 1), 9)
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path / "v.mkv")
    assert "\n" not in str(caught.value)


def test_ycgco(tmp_path):
    """H.273, equations 57 to 59: Y, Cg and Co with the full range."""
    red, green, blue = np.moveaxis(patches(RGB), 2, 0)
    planes = [(red + 2 * green + blue) / 4, (2 * green - red - blue) / 4 + 128, (red - blue) / 2 + 128]
    frame = av.VideoFrame.from_ndarray(np.stack(planes).round().clip(0, 255).astype(np.uint8), format="yuv444p")
    write(tmp_path / "v.mkv", [frame], "ffv1", "yuv444p", (1, 13, 8, 2))
    assert np.abs(colours_of(tmp_path / "v.mkv") - RGB).max() <= 2


# ---- shape ----


QUARTERS = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 0]]], float)  # red, green; blue, yellow


def quarters(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return QUARTERS.repeat(height // 2, 0).repeat(width // 2, 1)


def four(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return pixels[height // 4 :: height // 2, width // 4 :: width // 2][:2, :2] > 127


ONE = 65536
SHOWN = {  # numbers of the display matrix, and what numpy does to the stored pixels
    "as it is": ([ONE, 0, 0, 0, ONE, 0], lambda x: x),
    "90": ([0, ONE, 0, -ONE, 0, 0], lambda x: np.rot90(x, -1)),
    "180": ([-ONE, 0, 0, 0, -ONE, 0], lambda x: np.rot90(x, 2)),
    "270": ([0, -ONE, 0, ONE, 0, 0], lambda x: np.rot90(x, 1)),
    "mirror": ([-ONE, 0, 0, 0, ONE, 0], lambda x: x[:, ::-1]),
    "upside down": ([ONE, 0, 0, 0, -ONE, 0], lambda x: x[::-1]),
    "transposed": ([0, ONE, 0, ONE, 0, 0], lambda x: x.swapaxes(0, 1)),
    "transverse": ([0, -ONE, 0, -ONE, 0, 0], lambda x: np.rot90(x, 2).swapaxes(0, 1)),
    "10 degrees": ([64540, 11380, 0, -11380, 64540, 0], lambda x: x),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_every_display_matrix_is_applied(tmp_path, kind):
    """By the definition in ISO/IEC 14496-12: (x, y) is shown at (a x + c y, b x + d y), for a, b, u, c, d, v."""
    numbers, change = SHOWN[kind]
    write(tmp_path / "v.mp4", [quarters()] * 2, "libx264", "yuv420p", display=[*numbers, 0, 0, 1 << 30])
    frames, notes = read(tmp_path / "v.mp4")
    wanted = change(QUARTERS)
    assert (four(frames[0]) == (wanted > 0.5)).all()
    assert frames[0].shape[:2] == change(np.empty((HEIGHT, WIDTH))).shape
    assert bool(notes) == (kind == "10 degrees")


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(4, 3), (128, 64)), (Fraction(1, 2), (96, 128)), (Fraction(16, 11), (140, 64))]
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_pixels_become_square(tmp_path, aspect, size, suffix):
    write(tmp_path / f"v.{suffix}", [quarters()] * 2, "libx264", "yuv420p", aspect=aspect)
    frames, notes = read(tmp_path / f"v.{suffix}")
    assert frames[0].shape[1::-1] == size and (four(frames[0]) == (QUARTERS > 0.5)).all()
    assert any("not square" in note for note in notes)


def test_stretching_comes_before_turning(tmp_path):
    numbers = [*SHOWN["90"][0], 0, 0, 1 << 30]
    write(tmp_path / "v.mp4", [quarters()] * 2, "libx264", "yuv420p", aspect=Fraction(2, 1), display=numbers)
    assert read(tmp_path / "v.mp4")[0][0].shape[:2] == (192, 64)


def test_the_clean_aperture_is_what_is_shown(tmp_path):
    """A frame of 96x64 of which 60x40 counts, its middle 6 px to the right and 4 px above that of the frame."""
    picture = np.zeros((HEIGHT, WIDTH, 3))
    picture[8:48, 24:84] = quarters(60, 40)
    write(tmp_path / "v.mp4", [picture] * 2, "libx264", "yuv444p", options={"crf": "1"})
    insert_box(tmp_path / "v.mp4", b"clap", struct.pack(">IIIIiIiI", 60, 1, 40, 1, 6, 1, -4, 1))
    frames, notes = read(tmp_path / "v.mp4")
    assert frames[0].shape[:2] == (40, 60)
    assert np.abs(frames[0].astype(float) - 255 * quarters(60, 40)).mean() < 6
    assert any("60x40" in note for note in notes)


def test_fields_are_joined(tmp_path):
    """A bar that moves by 6 px between the fields is torn; afterwards it is not."""
    frames = []
    for index in range(6):
        picture = np.full((HEIGHT, WIDTH, 3), 0.2)
        picture[::2, 10 + 12 * index : 22 + 12 * index] = 0.9
        picture[1::2, 16 + 12 * index : 28 + 12 * index] = 0.9
        frames.append(picture)
    options = {"flags": "+ilme+ildct", "x264-params": "tff=1", "crf": "5"}
    write(tmp_path / "v.mp4", frames, "libx264", "yuv420p", options=options)

    def torn(pixels: np.ndarray) -> float:
        rows = pixels[..., 1].astype(float)
        return np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean()

    shown, notes = read(tmp_path / "v.mp4")
    assert len(shown) == 6 and any("interlaced" in note for note in notes)
    assert torn(shown[3]) < 0.2 * torn(255 * frames[3])


@pytest.mark.parametrize("fields", ["tff", "bff"])
def test_joining_keeps_colours(tmp_path, fields):
    options = {"flags": "+ilme+ildct", "x264-params": f"{fields}=1", "crf": "4"}
    frame = patches(hdr(RGB / 255.0, 18))
    write(tmp_path / "v.mp4", [frame] * 3, "libx264", "yuv422p10le", (9, 18, 9, 1), 9, options=options)
    assert np.abs(colours_of(tmp_path / "v.mp4") - RGB).max() <= 8


# ---- several pictures in one file ----


def test_the_largest_video_is_used_and_covers_are_not(tmp_path):
    """A small stream, as cameras add for previews, comes first; another file has a cover."""
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        small, large = (
            container.add_stream("ffv1", 10, width=w, height=h, pix_fmt="yuv444p") for w, h in ((48, 32), (96, 64))
        )
        for _ in range(3):
            for stream, size in ((small, (48, 32)), (large, (96, 64))):
                frame = av.VideoFrame.from_ndarray((255 * quarters(*size)).astype(np.uint8), format="rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv444p")))
        for stream in (small, large):
            container.mux(stream.encode())
    frames, notes = read(path)
    assert len(frames) == 3 and frames[0].shape == (64, 96, 3)
    assert any("2 videos" in note and "96x64" in note for note in notes)


def test_dolby_vision_without_a_base_picture_is_refused(tmp_path):
    for profile, base, is_refused in ((5, 0, True), (8, 4, False), (8, 1, False)):
        path = tmp_path / f"{profile}{base}.mp4"
        write(path, [patches(hdr(RGB / 255.0, 18))] * 2, "libx264", "yuv420p10le", (9, 18, 9, 1), 9)
        insert_box(path, b"dvcC" if profile == 5 else b"dvvC", bytes([1, 0, profile << 1, 0x2D, base << 4]) + bytes(19))
        if is_refused:
            with pytest.raises(InputError, match="Dolby Vision.*profile 5"):
                read(path)
        else:
            assert any("Dolby Vision profile 8" in note for note in read(path)[1])


def spherical(projection: bytes = b"equi") -> bytes:
    """The boxes of Google's Spherical Video V2 for the whole sphere."""

    def box(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + name + content

    content = bytes(4) + bytes(16) if projection == b"equi" else bytes(4) + bytes(8)
    return box(b"svhd", bytes(4) + b"test\0") + box(b"proj", box(b"prhd", bytes(16)) + box(projection, content))


def test_a_360_degree_video_is_cut_into_faces(tmp_path):
    write(tmp_path / "v.mp4", [patches(RGB / 255, 192, 96)] * 3, "libx264", "yuv420p")
    insert_box(tmp_path / "v.mp4", b"sv3d", spherical())
    stages = Stages(StopRequest(), quiet=True)
    inputs = extract_frames(tmp_path / "v.mp4", 0, tmp_path, stages)
    assert len(inputs.photos) == 18 and len({photo.lens for photo in inputs.photos}) == 6
    assert any("360" in note for note in stages.notes)


def test_other_projections_are_refused(tmp_path):
    write(tmp_path / "v.mp4", [patches(RGB / 255, 192, 96)] * 3, "libx264", "yuv420p")
    insert_box(tmp_path / "v.mp4", b"sv3d", spherical(b"cbmp"))
    with pytest.raises(InputError, match="360 degree"):
        read(tmp_path / "v.mp4")


@pytest.mark.parametrize(("mode", "width"), [(1, 64), (2, 96)])
def test_one_view_of_a_stereo_video_is_used(tmp_path, mode, width):
    """Top and bottom, or left and right; both views are squeezed to half."""
    left, right = (patches(RGB / 255), patches(RGB[::-1] / 255))
    frame = np.concatenate([left[::2], right[::2]]) if mode == 1 else np.concatenate([left[:, ::2], right[:, ::2]], 1)
    write(tmp_path / "v.mp4", [frame] * 2, "libx264", "yuv444p", options={"crf": "4"})
    insert_box(tmp_path / "v.mp4", b"st3d", bytes([0, 0, 0, 0, mode]))
    frames, notes = read(tmp_path / "v.mp4")
    assert abs(frames[0].shape[1] / frames[0].shape[0] - 1.5) < 0.01
    assert np.abs(of_each(frames[0]) - RGB).max() <= 12 and any("stereo" in note for note in notes)


# ---- damage ----


def noise(num_frames: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((HEIGHT, WIDTH, 3)) for _ in range(num_frames)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_file_that_ends_early_is_said(tmp_path, suffix):
    path = tmp_path / f"v.{suffix}"
    with av.open(str(path), "w", options={"movflags": "faststart"} if suffix == "mp4" else {}) as container:
        stream = container.add_stream("libx264", 10, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p", options={"g": "5"})
        for pixels in noise(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray((255 * pixels).astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())
    whole = path.read_bytes()
    assert not read(path)[1]
    path.write_bytes(whole[: len(whole) // 2])
    frames, notes = read(path)
    (said,) = [note for note in notes if "ends early" in note]
    assert 10 < len(frames) < 30 and f"{len(frames)} of about" in said
    assert abs(int(said.split("of about ")[1].split()[0]) - 40) <= 3


def test_a_recording_without_an_index_is_one_line(tmp_path):
    write(tmp_path / "v.mp4", noise(20), "libx264", "yuv420p")
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no index.*cut off"):
        read(tmp_path / "v.mp4")


def test_damage_in_the_middle_does_not_end_the_video(tmp_path):
    write(tmp_path / "v.mkv", noise(30), "ffv1", "yuv444p", options={"slicecrc": "1"})
    whole = bytearray((tmp_path / "v.mkv").read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 4000] = bytes(4000)
    (tmp_path / "v.mkv").write_bytes(whole)
    frames, notes = read(tmp_path / "v.mkv")
    assert len(frames) >= 20


def test_grey_frames_are_never_chosen(tmp_path):
    frames = noise(20)
    for index in (0, 1, 7, 8):
        frames[index] = np.full((HEIGHT, WIDTH, 3), 0.5)
    write(tmp_path / "v.mkv", frames)
    stages = Stages(StopRequest(), quiet=True)
    inputs = extract_frames(tmp_path / "v.mkv", 0, tmp_path, stages)
    chosen = {int(photo.name[6:12]) for photo in inputs.photos}
    assert chosen == set(range(20)) - {0, 1, 7, 8} and any("4 frames of one colour" in note for note in stages.notes)


def test_frames_of_different_durations_all_count(tmp_path):
    """Phones and screen recorders write them."""
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 30, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(noise(12)):
            frame = av.VideoFrame.from_ndarray((255 * pixels).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = (
                [0, 33, 50, 500, 510, 520, 900, 1300, 1310, 1400, 1800, 1801][index],
                Fraction(1, 1000),
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = Video(path)
    sharpness, _, _ = measure_frames(video, Stages(StopRequest(), quiet=True))
    assert len(sharpness) == 12 and not video.notes
