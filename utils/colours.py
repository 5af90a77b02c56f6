"""Colours of videos and photos to sRGB, from the codes of ITU-T H.273 for primaries and transfer functions.

FFmpeg, PNG (cICP) and HEIF (nclx) share these codes. SDR values are taken as those of an sRGB screen, as players do, so
only their primaries may change. HDR (BT.2100 HLG and PQ) is shown with its reference white of 203 cd/m^2 (BT.2408) as
white:

1. To light, in units of the reference white: the EOTF of PQ; of HLG the inverse OETF, then the OOTF of a screen of
   1,000 cd/m^2.
2. From the primaries of the file to those of BT.709; where the whites differ, by Bradford's adaptation.
3. HDR alone: let m be the largest of R, G and B. Above the knee k = 0.9 all three are scaled by f(m) / m, where
   f(m) = k + (1 - k) (1 - exp(-(m - k) / (1 - k))), so that highlights end softly in white and keep their hue.
4. What sRGB can't show is clipped, and encoded with the curve of IEC 61966-2-1.
"""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

BT709, BT2020, UNKNOWN = 1, 9, (0, 2, 3)  # codes of primaries; the last: not specified or reserved, of all codes
PQ, HLG = 16, 18  # codes of transfer functions
REFERENCE_WHITE = 203.0  # cd/m^2, BT.2408
KNEE = 0.9  # of the reference white, above which highlights are compressed
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2  # cd/m^2 of the screen, and BT.2100's exponent for it
_BLOCK = 1 << 20  # pixels whose float32 values are in memory at a time

D65 = (0.3127, 0.3290)
# White, red, green and blue, each as x and y of CIE 1931.
CHROMATICITIES: dict[int, tuple[float, ...]] = {
    1: (*D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),  # BT.709, sRGB
    4: (0.310, 0.316, 0.670, 0.330, 0.210, 0.710, 0.140, 0.080),  # BT.470 M
    5: (*D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),  # BT.601 with 625 lines
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # BT.601 with 525 lines
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # SMPTE 240M
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),  # film
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),  # CIE XYZ
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI P3
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),  # EBU 3213
}
ADOBE_RGB = (*D65, 0.640, 0.330, 0.210, 0.710, 0.150, 0.060)
ADOBE_GAMMA = 563 / 256

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def srgb_to_light(values: np.ndarray) -> np.ndarray:
    """Values of sRGB in [0, 1] to linear light in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def light_to_srgb(light: np.ndarray) -> np.ndarray:
    """The inverse of :func:`srgb_to_light`."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def pq_to_light(values: np.ndarray) -> np.ndarray:
    """BT.2100 PQ values in [0, 1] to light in units of the reference white (the EOTF, SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = values ** (1 / m2)
    return 10000 / REFERENCE_WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def hlg_to_scene(values: np.ndarray) -> np.ndarray:
    """BT.2100 HLG values in [0, 1] to light of the scene in [0, 1] (the inverse OETF)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)


def primaries_matrix(source: tuple[float, ...]) -> np.ndarray:
    """(3,3) float64, linear RGB of primaries as in ``CHROMATICITIES`` to that of BT.709, white to white."""
    target = CHROMATICITIES[BT709]
    white_of_source, white_of_target = (_BRADFORD @ _xyz(*each[:2]) for each in (source, target))
    adaptation = np.linalg.inv(_BRADFORD) @ np.diag(white_of_target / white_of_source) @ _BRADFORD
    return np.linalg.inv(rgb_to_xyz(target)) @ adaptation @ rgb_to_xyz(source)


def rgb_to_xyz(chromaticities: tuple[float, ...]) -> np.ndarray:
    """(3,3) float64, linear RGB to CIE XYZ; the white has Y = 1. Its second row are the weights of luminance."""
    matrix = np.stack([_sum_one(x, y) for x, y in zip(chromaticities[2::2], chromaticities[3::2], strict=True)], 1)
    return matrix * np.linalg.solve(matrix, _xyz(*chromaticities[:2]))


def is_srgb(primaries: int, transfer: int) -> bool:
    """Whether :func:`to_srgb` leaves values as they are."""
    return _matrix_of(primaries) is None and transfer not in _TO_LIGHT


def to_srgb(values: np.ndarray, primaries: int, transfer: int) -> np.ndarray:
    """Colours to sRGB; see the module.

    Args:
        values: (H,W,3) uint16, R, G and B with 65535 as 1.
        primaries: code of H.273; an unknown one counts as BT.709, of HDR as BT.2020.
        transfer: code of H.273.

    Returns:
        (H,W,3) uint8.
    """
    if transfer in (PQ, HLG) and primaries not in CHROMATICITIES:
        primaries = BT2020
    to_light = _TO_LIGHT.get(transfer, srgb_to_light)
    return _converted(values, _light_table(to_light), _matrix_of(primaries), primaries, transfer)


def chromaticities_to_srgb(values: np.ndarray, chromaticities: tuple[float, ...], gamma: float) -> np.ndarray:
    """Colours of any primaries and a power as transfer function to sRGB.

    Args:
        values: (H,W,3) uint16, R, G and B with 65535 as 1.
        chromaticities: as in ``CHROMATICITIES``.
        gamma: the exponent from values to light.

    Returns:
        (H,W,3) uint8.
    """
    table = (np.arange(65536) / 65535) ** gamma
    return _converted(values, table.astype(np.float32), primaries_matrix(chromaticities), BT709, BT709)


def _converted(
    values: np.ndarray, table: np.ndarray, matrix: np.ndarray | None, primaries: int, transfer: int
) -> np.ndarray:
    out = np.empty(values.shape, np.uint8)
    step = max(1, _BLOCK // values.shape[1])
    for top in range(0, len(values), step):
        light = table[values[top : top + step]]
        if transfer == HLG:
            luminance = light @ rgb_to_xyz(CHROMATICITIES[primaries])[1].astype(np.float32)
            light *= (_HLG_PEAK / REFERENCE_WHITE * luminance ** (_HLG_GAMMA - 1))[..., None]
        if matrix is not None:
            light = cv2.transform(light, matrix.astype(np.float32))
        if transfer in (PQ, HLG):
            largest = light.max(axis=2)
            light *= (_shoulder(largest) / np.maximum(largest, KNEE))[..., None]
        out[top : top + step] = _srgb_table()[np.rint(light.clip(0, 1) * 65535).astype(np.uint16)]
    return out


def _shoulder(light: np.ndarray) -> np.ndarray:
    """The curve f of the module for light above the knee; below it, the knee."""
    return KNEE + (1 - KNEE) * -np.expm1(-np.maximum(light - KNEE, 0) / (1 - KNEE))


@lru_cache
def _matrix_of(primaries: int) -> np.ndarray | None:
    """To BT.709; None for BT.709 and for what is not known."""
    known = CHROMATICITIES.get(primaries)
    return None if known is None or primaries == BT709 else primaries_matrix(known)


@lru_cache
def _light_table(to_light: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return to_light(np.arange(65536) / 65535).astype(np.float32)


@lru_cache
def _srgb_table() -> np.ndarray:
    return np.rint(255 * light_to_srgb(np.arange(65536) / 65535)).astype(np.uint8)


def _xyz(x: float, y: float) -> np.ndarray:
    """Of luminance 1."""
    return _sum_one(x, y) / y


def _sum_one(x: float, y: float) -> np.ndarray:
    return np.array([x, y, 1 - x - y])


# By code. Those that are not here (BT.709, BT.601, BT.2020, sRGB and the like) count as sRGB.
_TO_LIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    4: lambda values: values**2.2,
    5: lambda values: values**2.8,
    8: lambda values: values,
    9: lambda values: np.where(values > 0, 10 ** (2.0 * (values - 1)), 0),
    10: lambda values: np.where(values > 0, 10 ** (2.5 * (values - 1)), 0),
    PQ: pq_to_light,
    17: lambda values: 52.37 / 48 * values**2.6,  # SMPTE ST 428-1
    HLG: hlg_to_scene,
}
