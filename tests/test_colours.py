"""Colours become sRGB: the curves and matrices of the standards, and photos with profiles and codes of every kind."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from icc_writer import ADOBE, P3, PROPHOTO, SRGB, cmyk_profile, grey_profile, rgb_profile, srgb_curve, to_d50
from PIL import ExifTags, Image
from scene_writers import write_colmap

from compact_splats.photogrammetry.sources import find_sources, prepare
from compact_splats.photogrammetry.stages import Stages
from compact_splats.scene import load_scene
from compact_splats.utils import colours, profiles
from compact_splats.utils.pictures import mask_values, open_picture, rgb_and_alpha
from compact_splats.utils.signals import StopRequest

pillow_heif.register_heif_opener()  # to write it

RGB = np.array([(200, 40, 30), (30, 180, 60), (20, 60, 220), (128, 128, 128), (255, 255, 255), (0, 0, 0)], np.uint8)
TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
SHOWN = RGB.repeat(16, 0)[None].repeat(8, 0)  # (8,96,3)


def of_each(pixels: np.ndarray) -> np.ndarray:
    """(6,3) the colour in the middle of each patch."""
    return np.asarray(pixels)[4, 8::16].astype(float)


def in_srgb(values: np.ndarray, primaries, curve=srgb_curve) -> np.ndarray:
    """(N,3) 8-bit values of other primaries to sRGB by way of D50, as profiles do."""
    light = curve(values / 255.0) @ (np.linalg.inv(to_d50(SRGB)) @ to_d50(primaries)).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


# ---- the standards ----


@pytest.mark.parametrize(
    ("value", "nits"), [(0.0, 0), (0.508078, 100), (0.580689, 203), (0.751827, 1000), (0.902572, 4000), (1.0, 10000)]
)
def test_pq_is_that_of_st_2084(value, nits):
    """Values of ITU-R BT.2408, table 1, and of SMPTE ST 2084."""
    found = colours.pq_to_light(np.array([value]))[0] * colours.REFERENCE_WHITE
    assert found == pytest.approx(nits, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("value", "nits"), [(0.75, 203), (0.38, 26), (1.0, 1000), (0.0, 0)])
def test_hlg_on_a_screen_of_1000_nits(value, nits):
    """ITU-R BT.2408, table 1: reference white and a grey card of 18 %."""
    found = 1000 * colours.hlg_to_scene(np.array([value]))[0] ** 1.2
    assert found == pytest.approx(nits, rel=0.02, abs=1e-6)


def test_primaries_are_those_of_bt_2087_and_of_display_p3():
    """ITU-R BT.2087, Annex 2, gives the inverse to four digits; CSS Color 4 the one of Display P3."""
    np.testing.assert_allclose(np.linalg.inv(colours.primaries_matrix(colours.CHROMATICITIES[9])), TO_2020, atol=6e-5)
    np.testing.assert_allclose(
        colours.primaries_matrix(colours.CHROMATICITIES[12]),
        [[1.22494, -0.22494, 0], [-0.04206, 1.04206, 0], [-0.01964, -0.07864, 1.09827]],
        atol=2e-5,
    )


@pytest.mark.parametrize("primaries", sorted(colours.CHROMATICITIES))
def test_white_stays_white(primaries):
    white = np.full((1, 1, 3), 65535, np.uint16)
    assert (colours.to_srgb(white, primaries, 13) >= 254).all()


def test_luminance_weights_are_those_of_the_matrices_of_video():
    for code, weights in ((1, (0.2126, 0.7152, 0.0722)), (9, (0.2627, 0.6780, 0.0593))):
        found = colours.rgb_to_xyz(colours.CHROMATICITIES[code])[1]
        np.testing.assert_allclose(found, weights, atol=6e-5)


def hdr(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """(N,3) sRGB in [0, 1] as BT.2100 values, white at 203 cd/m^2, by the formulas of the standard."""
    nits = 203 * srgb_curve(rgb) @ TO_2020.T
    if transfer == 16:
        power = (nits / 10000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    luminance = np.maximum(nits @ [0.2627, 0.6780, 0.0593], 1e-9)[:, None] / 1000
    scene = nits / 1000 * luminance ** (1 / 1.2 - 1)
    logarithm = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithm)


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_shows_an_sdr_scene_as_it_was(transfer):
    """Up to the knee all colours come back; a white of 250 loses two levels, that of 255 four."""
    greys = np.arange(0, 256, 5)[:, None].repeat(3, 1)
    wanted = np.concatenate([RGB, greys])
    values = (hdr(wanted / 255.0, transfer) * 65535).round().clip(0, 65535).astype(np.uint16)[None]
    apart = np.abs(colours.to_srgb(values, 9, transfer)[0].astype(int) - wanted)
    assert apart[wanted.max(1) <= 240].max() <= 1
    assert apart.max() <= 4


@pytest.mark.parametrize("transfer", [16, 18])
def test_highlights_end_softly_and_keep_their_order_and_hue(transfer):
    """No grey gets darker as light grows, the brightest are white, and the ratio of the channels stays."""
    ramp = np.linspace(0, 65535, 500).astype(np.uint16)
    shown = colours.to_srgb(ramp[None, :, None].repeat(3, 2), 9, transfer)[0, :, 1].astype(int)
    assert (np.diff(shown) >= 0).all() and shown[0] == 0 and shown[-1] == 255
    orange = (hdr(np.array([(1.0, 0.6, 0.2)]), transfer) * 65535).astype(np.uint16)
    light = srgb_curve(colours.to_srgb(orange[None], 9, transfer)[0, 0] / 255)
    np.testing.assert_allclose(light / light[0], srgb_curve(np.array([1.0, 0.6, 0.2])), atol=0.01)


def test_blocks_of_rows_are_those_of_the_whole(monkeypatch):
    values = np.random.default_rng(0).integers(0, 65536, (7, 5, 3)).astype(np.uint16)
    whole = colours.to_srgb(values, 9, 18)
    monkeypatch.setattr(colours, "_BLOCK", 10)
    assert np.array_equal(colours.to_srgb(values, 9, 18), whole)


# ---- photos ----


def gamma(power: float):
    return lambda values: values**power


def read(path) -> np.ndarray:
    with open_picture(path) as picture:
        return rgb_and_alpha(picture)[0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "heic"])
@pytest.mark.parametrize(
    ("primaries", "curve"),
    [(P3, srgb_curve), (ADOBE, gamma(563 / 256)), (PROPHOTO, gamma(1.8)), (ADOBE, gamma(1.0))],
    ids=["p3", "adobe", "prophoto", "linear"],
)
def test_a_profile_is_converted_whatever_the_format(tmp_path, suffix, primaries, curve):
    path, more = tmp_path / f"a.{suffix}", {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    more = {"lossless": True} if suffix == "webp" else {"quality": -1} if suffix == "heic" else more
    profile = rgb_profile(primaries, curve)
    Image.fromarray(SHOWN).save(path, icc_profile=profile, **more)
    with Image.open(path) as picture:
        stored = of_each(picture.convert("RGB"))
        assert picture.info["icc_profile"] == profile
    # Worst measured: 1.5, of a linear profile in 8 bits.
    assert np.abs(of_each(read(path)) - in_srgb(stored, primaries, curve)).max() < 2.5


def test_srgb_profiles_of_all_makers_change_nothing(tmp_path):
    """Two writers of the same colours; the pixels stay bit for bit, and no transform is set up twice."""
    from PIL import ImageCms

    for name, profile in (
        ("a", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        ("b", rgb_profile(SRGB)),
    ):
        Image.fromarray(SHOWN).save(tmp_path / f"{name}.png", icc_profile=profile)
        assert np.array_equal(read(tmp_path / f"{name}.png"), SHOWN)
        with open_picture(tmp_path / f"{name}.png") as picture:
            assert profiles.conversion_to_srgb(picture) is None


def test_grey_and_cmyk_profiles(tmp_path):
    ramp = np.linspace(0, 255, 96).astype(np.uint8)[None].repeat(8, 0)
    Image.fromarray(ramp).save(tmp_path / "grey.png", icc_profile=grey_profile(1.0))
    wanted = 255 * colours.light_to_srgb(ramp / 255.0)
    assert np.abs(read(tmp_path / "grey.png") - wanted[..., None]).max() < 1.6
    Image.fromarray(ramp).save(tmp_path / "p3.png", icc_profile=rgb_profile(P3))  # grey of an RGB profile
    assert np.abs(read(tmp_path / "p3.png").astype(int) - ramp[..., None]).max() <= 1
    Image.fromarray(ramp.astype(np.uint16) * 256).save(tmp_path / "deep.png", icc_profile=grey_profile(1.0))
    assert np.abs(read(tmp_path / "deep.png") - wanted[..., None]).max() < 1.6
    # L* of 50 is a grey of 119, and 25 one of 59; without the profile both are 255 times one minus ink.
    ink = np.zeros((8, 96, 4), np.uint8)
    ink[:, :48, 3], ink[:, 48:, 3] = 128, 191
    Image.fromarray(ink, "CMYK").save(tmp_path / "ink.jpg", icc_profile=cmyk_profile(100), quality=100)
    assert np.abs(read(tmp_path / "ink.jpg")[4, (20, 70)].astype(int) - [[119], [59]]).max() <= 4


def test_alpha_is_kept_and_masks_are_never_converted(tmp_path):
    alpha = np.linspace(0, 255, 96).astype(np.uint8)[None].repeat(8, 0)
    Image.fromarray(np.dstack([SHOWN, alpha])).save(tmp_path / "a.png", icc_profile=rgb_profile(P3))
    with open_picture(tmp_path / "a.png") as picture:
        rgb, found = rgb_and_alpha(picture)
    assert np.array_equal(found, alpha) and not np.array_equal(rgb, SHOWN)
    assert np.abs(of_each(rgb) - in_srgb(RGB, P3)).max() < 1.6
    Image.fromarray(alpha).save(tmp_path / "mask.png", icc_profile=grey_profile(1.0))
    with open_picture(tmp_path / "mask.png") as picture:
        assert np.array_equal(mask_values(picture), np.where(alpha >= 127.5, 255, 0))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_png(path, *chunks: bytes) -> None:
    file = io.BytesIO()
    Image.fromarray(SHOWN).save(file, "png")
    content = file.getvalue()
    path.write_bytes(content[:33] + b"".join(chunks) + content[33:])  # behind the header


CHRM_P3 = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
GAMA = {power: chunk(b"gAMA", struct.pack(">I", round(1e5 / power))) for power in (2.2, 1.0)}


@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ([chunk(b"cICP", bytes([12, 13, 0, 1]))], in_srgb(RGB, P3)),
        ([chunk(b"cICP", bytes([1, 13, 0, 1]))], RGB),
        ([chunk(b"cICP", bytes([2, 2, 0, 1]))], RGB),
        ([chunk(b"cICP", bytes([12, 13, 0, 1])), chunk(b"sRGB", b"\0")], in_srgb(RGB, P3)),
        ([GAMA[2.2], CHRM_P3], in_srgb(RGB, P3, gamma(2.2))),
        ([GAMA[1.0]], in_srgb(RGB, SRGB, gamma(1.0))),
        ([GAMA[2.2]], RGB),
        ([chunk(b"sRGB", b"\0"), GAMA[1.0]], RGB),
        ([chunk(b"gAMA", bytes(4))], RGB),
    ],
    ids=["p3", "srgb", "unknown", "p3 first", "gamma and primaries", "linear", "usual", "srgb first", "impossible"],
)
def test_chunks_of_a_png(tmp_path, chunks, wanted):
    write_png(tmp_path / "a.png", *chunks)
    assert np.abs(of_each(read(tmp_path / "a.png")) - wanted).max() < 1.6


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_photos_are_shown_as_sdr(tmp_path, transfer):
    values = (hdr(SHOWN.reshape(-1, 3) / 255.0, transfer) * 255).round().clip(0, 255).astype(np.uint8)
    Image.fromarray(values.reshape(SHOWN.shape)).save(
        tmp_path / "a.heic", quality=-1, matrix_coefficients=0, color_primaries=9, transfer_characteristics=transfer
    )
    # Worst measured: 8, of the blue, by 8 bits of HDR.
    assert np.abs(of_each(read(tmp_path / "a.heic")) - RGB).max() < 10


def test_codes_of_an_avif(tmp_path):
    file = io.BytesIO()
    Image.fromarray(SHOWN).save(file, "avif", quality=100, subsampling="4:4:4")
    content = bytearray(file.getvalue())
    place = content.find(b"colrnclx") + 8
    content[place : place + 4] = struct.pack(">HH", 12, 13)
    (tmp_path / "a.avif").write_bytes(content)
    assert np.abs(of_each(read(tmp_path / "a.avif")) - in_srgb(RGB, P3)).max() < 4


@pytest.mark.parametrize(("tags", "is_adobe"), [((0xFFFF, "R03"), True), ((2, ""), True), ((1, "R98"), False)])
def test_cameras_name_adobe_rgb_in_exif_tags(tmp_path, tags, is_adobe):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = tags[0]
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: tags[1]}
    Image.fromarray(SHOWN).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    wanted = in_srgb(RGB, ADOBE, gamma(563 / 256)) if is_adobe else RGB
    assert np.abs(of_each(read(tmp_path / "a.jpg")) - wanted).max() < 3


BROKEN = {
    "cut": rgb_profile(P3)[:200], "noise": np.random.default_rng(0).bytes(600), "short": b"x",
    "of grey for colours": grey_profile(2.2), "of ink for colours": cmyk_profile(90),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_profile_that_cannot_be_used_is_one_note_for_all_photos(tmp_path, capsys, kind):
    profiles._by_profile.cache_clear()
    profiles._noted.clear()
    for name in ("a.png", "b.png"):
        Image.fromarray(SHOWN).save(tmp_path / name, icc_profile=BROKEN[kind])
        assert np.array_equal(read(tmp_path / name), SHOWN)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a.png" in said and "taken as sRGB" in said


def test_convert_and_train_read_the_same_colours(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.png"):
        Image.fromarray(SHOWN).save(photos / name, icc_profile=rgb_profile(P3), quality=100, subsampling=0)
    (tmp_path / "work").mkdir()
    stages = Stages(StopRequest(), quiet=True)
    inputs = prepare(find_sources([photos]), 0, None, tmp_path / "work", stages, 1)
    for photo in inputs.photos:
        with Image.open(inputs.folder / photo.name) as written:
            assert "icc_profile" not in written.info
            assert np.abs(of_each(written) - in_srgb(RGB, P3)).max() < 4
    scene = tmp_path / "scene"
    write_colmap(scene, [(1, "PINHOLE", 96, 8, (90, 90, 48, 4))], num_images=2)
    Image.fromarray(SHOWN).save(scene / "images" / "001.png", icc_profile=rgb_profile(P3))
    pixels = load_scene(scene).train[0].photo.pixels().permute(1, 2, 0).numpy()
    assert np.abs(of_each(pixels) - in_srgb(RGB, P3)).max() < 1.6
