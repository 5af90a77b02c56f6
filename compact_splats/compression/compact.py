"""Profile "compact" of .gsz: about 12 bytes a Gaussian, and a plain 3DGS model after decoding.

Positions as cells along the Morton curve and places in them, finer for thin Gaussians; the longest axis and its ratios
to the others; rotations close to the identity; colours in the colour basis and its principal components, in steps that
are finer for Gaussians that cover more of an image; all entropy-coded with contexts. This file chooses grid, steps and
bases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compact_splats.compression import compact_streams
from compact_splats.compression.arrays import Arrays, Parameters, checked
from compact_splats.compression.axes import close_to_identity
from compact_splats.compression.color_basis import CellBases, ColorBasis
from compact_splats.compression.compact_code import (
    FRACTION_BITS,
    VERSION,
    WEIGHT_STEPS,
    Codes,
    CompactCode,
    as_pca_basis,
    inverse_of,
    opacity_weights,
    to_color_basis,
    turn_weights,
    weight_of,
)
from compact_splats.compression.container import marks_of, pack
from compact_splats.compression.quantizer import Quantizer
from compact_splats.scene.parameters import is_nested

NAME = compact_streams.NAME
MAX_LOGIT = 25.0  # beyond, opacities are 0 or 1 in single precision
TYPICAL_DEPTH = 4  # bits of a place in its cell
# Factors of `compact_code.FEATURES`, in 64ths: fitted to how much the renders change with the parameters of each
# Gaussian, in models of two scenes (docs/results.md).
COLOR_WEIGHT = (112, 80, 24, 0, -48)
QUAT_WEIGHT = (90, 176, -44, -16, -32, 86)
DEPTH = (86, -27, -77, -49, 243)
MIN_GAUSSIANS_FOR_PCA = 1024  # with fewer, the PCA basis costs more bytes than it saves


@dataclass(frozen=True)
class CompactSettings:
    """Trades size for quality, see ``PRESETS``.

    Attributes:
        position_step: of a typical Gaussian's position, as a share of its size.
        scale_step: natural log, of the longest axis.
        opacity_step: of the logit.
        quat_step: of the quaternion's imaginary parts, for a Gaussian of weight 1 whose axes have ratios of about e.
        dc_step: of the luma, for a Gaussian of weight 1.
        rest_step: of the principal components of the higher SH degrees, for a Gaussian of weight 1.
        dead_zone: a component below this many steps becomes 0; 0.5 is plain rounding.
        rate: weight of the estimated bits per Gaussian in the loss of fine-tuning.
    """

    position_step: float = 0.023
    scale_step: float = 0.075
    opacity_step: float = 0.17
    quat_step: float = 0.035
    dc_step: float = 0.05
    rest_step: float = 0.067
    dead_zone: float = 0.55
    rate: float = 2.6e-4


PRESETS = {
    "small": CompactSettings(
        position_step=0.05,
        scale_step=0.12,
        opacity_step=0.3,
        quat_step=0.075,
        dc_step=0.075,
        rest_step=0.095,
        dead_zone=0.6,
        rate=6e-4,
    ),
    "default": CompactSettings(),
    "high": CompactSettings(
        position_step=0.018,
        scale_step=0.07,
        opacity_step=0.15,
        quat_step=0.028,
        dc_step=0.045,
        rest_step=0.06,
        rate=1.5e-4,
    ),
}  # ``--quality``; docs/results.md has their sizes and losses


class CompactQuantizer(Quantizer):
    """The profile as a ``compression.quantizer.Quantizer``.

    Args:
        settings: trade size for quality.
        color_basis: that of the training cameras; None: the spherical harmonics.

    Attributes:
        code: of the last fit; not set before.
    """

    code: CompactCode
    _inverse: Tensor
    _bases: CellBases
    _last_codes: Codes  # of the last fit or quantization

    def __init__(self, settings: CompactSettings | None = None, color_basis: ColorBasis | None = None) -> None:
        self.settings = settings or CompactSettings()
        self.color_basis = color_basis or ColorBasis.of_all_directions()

    def prepared(self, parameters: Parameters) -> Parameters:
        """The same Gaussians with axes in the order that makes rotations small, see ``compression.axes``."""
        quats, log_scales = close_to_identity(parameters["quats"], parameters["log_scales"])
        return {**parameters, "quats": quats, "log_scales": log_scales}

    def fit(self, parameters: Parameters) -> None:
        """Choose the grid, the weights and the PCA basis.

        Raises:
            FormatError: not the parameters of a model, see ``compression.arrays.checked``.
        """
        arrays = checked({name: values.detach().cpu().numpy() for name, values in parameters.items()})
        parameters = {name: torch.from_numpy(array) for name, array in arrays.items()}
        code = self._with_offsets(self._scalars(parameters), parameters)
        codes = code.shape_codes(parameters)
        self._bases = code.cell_bases()
        codes.basis_index = code.basis_index(codes, self._bases)
        colors = to_color_basis(parameters, self._bases, codes.basis_index)
        self.code = replace(code, pca_basis=self._pca_basis(colors[:, 1:], weight_of(codes.weights)))
        self._inverse = inverse_of(self.code.pca_basis, 3 * code.num_rest)
        self._last_codes = codes

    def quantized(self, parameters: Parameters) -> Parameters:
        """See ``compression.quantizer.Quantizer.quantized``."""
        self._last_codes = self._codes(parameters)
        return self.code.values(self._last_codes, self._bases)

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """``rate`` times an estimate of the bits per Gaussian of the higher SH degrees."""
        weights = weight_of(self._last_codes.weights).float()
        sh = {"sh_dc": parameters["sh_dc"].detach(), "sh_rest": parameters["sh_rest"]}
        colors = to_color_basis(sh, self._bases, self._last_codes.basis_index, torch.float32)
        components = self.code.components(colors[:, 1:], weights, self._inverse)
        return self.settings.rate * torch.log2(1 + components.abs()).sum() / max(1, len(weights))

    def encode(self, arrays: Arrays) -> bytes:
        """The file, with levels if the arrays are marked as nested.

        Within a level its bytes do not depend on the order of the Gaussians, unless two lie in one place.

        Raises:
            FormatError: not the arrays of a model, see ``compression.arrays.checked``, or too many Gaussians.
        """
        tensors = {name: torch.from_numpy(array) for name, array in checked(arrays).items()}
        return pack(*self._streams(tensors, is_nested(arrays)), marks_of(arrays))

    def _codes(self, parameters: Parameters) -> Codes:
        return self.code.codes(parameters, self._bases, self._inverse, self.settings.dead_zone)

    def _streams(self, parameters: Parameters, nested: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
        return compact_streams.write(self.code, self._codes(parameters), nested)

    def _scalars(self, parameters: Parameters) -> CompactCode:
        """All but the offsets and the PCA basis."""
        settings, num = self.settings, len(parameters["means"])
        means = parameters["means"].double()
        logits = parameters["opacity_logits"].double().clamp(-MAX_LOGIT, MAX_LOGIT)
        centre = means.median(0).values if num else torch.zeros(3)
        spread = max(2 * float((means - centre).abs().median()) if num else 1.0, 1e-6)
        # Near the centre a cell is spread / 2^(bits - 1) wide; a place in it has a typical depth of its own.
        bits = 1 + round(math.log2(max(spread / self._position_step(parameters), 1))) - TYPICAL_DEPTH
        allowed = compact_streams.POSITION_BITS
        ends = (logits.min(), logits.max()) if num else (0.0, 0.0)
        low, high = (round(float(end) / settings.opacity_step) for end in ends)
        return CompactCode(
            version=VERSION,
            position_bits=max(allowed[0], min(allowed[-1], bits)),
            centre=tuple(map(float, centre)),
            spread=spread,
            scale_step=settings.scale_step,
            opacity_step=settings.opacity_step,
            quat_step=settings.quat_step,
            dc_step=settings.dc_step,
            rest_step=settings.rest_step,
            opacity_low=low,
            opacity_weights=opacity_weights(low, high, settings.opacity_step),
            turn_weights=turn_weights(),
            color_weight=(*COLOR_WEIGHT, 0),
            quat_weight=(*QUAT_WEIGHT, 0),
            depth=(*DEPTH, 0),
            num_rest=parameters["sh_rest"].shape[1],
            color_basis=self.color_basis,
            pca_basis=None,
        )

    def _with_offsets(self, code: CompactCode, parameters: Parameters) -> CompactCode:
        """Offsets with which the median Gaussian has weight 1 and the step of ``settings`` for its position."""
        if not len(parameters["means"]):
            return code
        color, quat, depth = code.raw_indices(code.size_codes(parameters)[0])
        typical = 0.5 + math.log2(code.spread / self._position_step(parameters)) - (code.position_bits - 1)
        octave = WEIGHT_STEPS << FRACTION_BITS
        return replace(
            code,
            color_weight=(*COLOR_WEIGHT, -int(color.median())),
            quat_weight=(*QUAT_WEIGHT, -int(quat.median())),
            depth=(*DEPTH, round(typical * octave) - int(depth.median())),
        )

    def _position_step(self, parameters: Parameters) -> float:
        """Of the median Gaussian, world units."""
        longest = parameters["log_scales"].double().sort(1, descending=True).values[:, :2].mean(1)
        typical = float(longest.median().clamp(-60, 60).exp()) if len(longest) else 1.0
        return self.settings.position_step * typical

    def _pca_basis(self, rest: Tensor, weights: Tensor) -> Tensor | None:
        """(K,3 num_rest) int8, without the components that would be 0 nearly everywhere."""
        if len(rest) < MIN_GAUSSIANS_FOR_PCA or not rest.shape[1]:
            return None
        flat = rest.reshape(len(rest), -1).double() * weights[:, None]
        energies, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        count = int((energies.clamp_min(0).sqrt() > 0.35 * self.settings.rest_step).sum())
        return as_pca_basis(vectors.flip(1)[:, :count].T)


def encode_compact(
    arrays: Arrays,
    nested: bool = False,
    color_basis: ColorBasis | None = None,
    quality: str = "default",
    **settings: float,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and streams of a model.

    Args:
        arrays: of :func:`compression.arrays.checked`.
        nested: the first Gaussians alone are a good model: make levels.
        color_basis: that of the training cameras; None: the spherical harmonics.
        quality: one of ``PRESETS``.
        settings: of :class:`CompactSettings`, in place of those of the preset.

    Raises:
        FormatError: too many Gaussians.
    """
    quantizer = CompactQuantizer(replace(PRESETS[quality], **settings), color_basis)
    parameters = quantizer.prepared({name: torch.from_numpy(array) for name, array in arrays.items()})
    quantizer.fit(parameters)
    return quantizer._streams(parameters, nested)
