"""Profile "compact" of .gsz: about 12 bytes a Gaussian, and a plain 3DGS model after decoding.

Positions in cells along the Morton curve and in places within them, more of these for thin Gaussians; the sizes of axes
beside the longest; rotations written close to the identity; colours in steps that are finer for Gaussians that cover
more; spherical harmonics turned to their principal components; all entropy-coded with contexts. This file chooses grid,
steps and basis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compact_splats.compression import compact_streams
from compact_splats.compression.arrays import checked
from compact_splats.compression.axes import close_to_identity
from compact_splats.compression.compact_code import (
    FRACTION_BITS,
    THINNEST,
    WEIGHT_STEPS,
    Codes,
    CompactCode,
    as_basis,
    inverse_of,
    seen_colors,
    weight_of,
)
from compact_splats.compression.container import pack
from compact_splats.compression.quantizer import Parameters
from compact_splats.compression.viewpoints import Frames, Viewpoints

NAME = compact_streams.NAME
MAX_LOGIT = 25.0  # of an opacity; beyond, it is 0 or 1 in single precision
TYPICAL_DEPTH = 4  # bits of a place in its cell
MIN_GAUSSIANS_FOR_BASIS = 1024  # with fewer, a basis of one's own costs more than it saves


@dataclass(frozen=True)
class CompactSettings:
    """What trades size for quality. The defaults are those of docs/results.md.

    Attributes:
        position_step: of a typical Gaussian's position, as a share of its size.
        scale_step: natural log, of the longest axis.
        opacity_step: of the logit.
        quat_step: of the quaternion's imaginary parts, for axes of which one is about e times as long as the other, in
            a Gaussian of weight 1.
        dc_step: of the luma, for a Gaussian of weight 1.
        rest_step: of the principal components of the other spherical harmonics, for a Gaussian of weight 1.
        dead_zone: a component below this many steps becomes 0; 0.5 is plain rounding.
        rate: weight of the estimated bits of a Gaussian in the loss of fine-tuning.
    """

    position_step: float = 0.02
    scale_step: float = 0.08
    opacity_step: float = 0.12
    quat_step: float = 0.028
    dc_step: float = 0.055
    rest_step: float = 0.076
    dead_zone: float = 0.55
    rate: float = 4.8e-4


class CompactQuantizer:
    """The profile as a ``compression.quantizer.Quantizer``.

    Args:
        settings: what trades size for quality.
        viewpoints: from where the model is looked at; None: from all around.
    """

    def __init__(self, settings: CompactSettings | None = None, viewpoints: Viewpoints | None = None) -> None:
        self.settings = settings or CompactSettings()
        self.viewpoints = viewpoints or Viewpoints.none()
        self.code: CompactCode | None = None  # as of the last fit
        self._inverse = torch.zeros(0, 0)
        self._frames: Frames | None = None
        self._last_codes: Codes = {}  # of the rows that were fitted or quantized last

    def prepared(self, rows: Parameters) -> Parameters:
        """The same Gaussians with their axes named so that the rotations are small, see ``compression.axes``."""
        quats, log_scales = close_to_identity(rows["quats"], rows["log_scales"])
        return {**rows, "quats": quats, "log_scales": log_scales}

    def fit(self, rows: Parameters) -> None:
        """Choose the grid, the weights and the basis.

        Raises:
            FormatError: not the rows of a model, see ``compression.arrays.checked``.
        """
        arrays = checked({name: row.detach().cpu().numpy() for name, row in rows.items()})
        rows = {name: torch.from_numpy(array) for name, array in arrays.items()}
        code = self._with_offsets(self._scalars(rows), rows)
        shape_codes = code.shape_codes(rows)
        self._frames = code.frames()
        shape_codes |= code.frame_indices(shape_codes, self._frames)
        seen = seen_colors(rows, self._frames, shape_codes["frames"])
        self.code = replace(code, basis=self._basis(seen[:, 1:], weight_of(shape_codes["weights"])))
        self._inverse = inverse_of(self.code.basis, 3 * code.num_rest)
        self._last_codes = shape_codes

    def quantized(self, rows: Parameters) -> Parameters:
        """See ``compression.quantizer.Quantizer.quantized``."""
        self._last_codes = self._codes(rows)
        return self.code.values(self._last_codes, self._frames)

    def penalty(self, rows: Parameters) -> Tensor:
        """``rate`` times about the bits that the spherical harmonics of a Gaussian take."""
        weights = weight_of(self._last_codes["weights"]).float()
        colors = {"sh_dc": rows["sh_dc"].detach(), "sh_rest": rows["sh_rest"]}
        seen = seen_colors(colors, self._frames, self._last_codes["frames"], torch.float32)
        components = self.code.components(seen[:, 1:], weights, self._inverse)
        return self.settings.rate * torch.log2(1 + components.abs()).sum() / max(1, len(weights))

    def encode(self, rows: dict[str, np.ndarray]) -> bytes:
        """The file. Its bytes do not depend on the order of the Gaussians, unless two lie in one place.

        Raises:
            FormatError: not the rows of a model, see ``compression.arrays.checked``, or too many Gaussians.
        """
        return pack(*self._streams({name: torch.from_numpy(row) for name, row in checked(rows).items()}))

    def _codes(self, rows: Parameters) -> Codes:
        return self.code.codes(rows, self._frames, self._inverse, self.settings.dead_zone)

    def _streams(self, rows: Parameters) -> tuple[dict[str, Any], dict[str, bytes]]:
        return compact_streams.write(self.code, self._codes(rows))

    def _scalars(self, rows: Parameters) -> CompactCode:
        """All but the offsets and the basis."""
        settings, num = self.settings, len(rows["means"])
        means = rows["means"].double()
        logits = rows["opacity_logits"].double().clamp(-MAX_LOGIT, MAX_LOGIT)
        centre = means.median(0).values if num else torch.zeros(3)
        spread = max(2 * float((means - centre).abs().median()) if num else 1.0, 1e-6)
        # Near the centre a cell is spread / 2^(bits - 1) wide; a place in it has a typical depth of its own.
        bits = 1 + round(math.log2(max(spread / self._position_step(rows), 1))) - TYPICAL_DEPTH
        allowed = compact_streams.POSITION_BITS
        ends = (logits.min(), logits.max()) if num else (0.0, 0.0)
        low, high = (round(float(end) / settings.opacity_step) for end in ends)
        eighths = math.ceil(8 * THINNEST / math.log(2))
        return CompactCode(
            position_bits=max(allowed[0], min(allowed[-1], bits)),
            centre=tuple(map(float, centre)),
            spread=spread,
            scale_step=settings.scale_step,
            opacity_step=settings.opacity_step,
            quat_step=settings.quat_step,
            dc_step=settings.dc_step,
            rest_step=settings.rest_step,
            opacity_low=low,
            opacity_weights=tuple(_log2_sigmoid_half(code * settings.opacity_step) for code in range(low, high + 1)),
            weight_offset=0,
            turn_weights=tuple(_turn_weight((apart + 0.5) * math.log(2) / 8) for apart in range(eighths + 1)),
            depth_offset=0,
            num_rest=rows["sh_rest"].shape[1],
            viewpoints=self.viewpoints,
            basis=None,
        )

    def _with_offsets(self, code: CompactCode, rows: Parameters) -> CompactCode:
        """The weight of the typical Gaussian is 1, and its place has the step that was asked for."""
        if not len(rows["means"]):
            return code
        weight, depth, _ = code.raw_indices(code.size_codes(rows))
        typical = 0.5 + math.log2(code.spread / self._position_step(rows)) - (code.position_bits - 1)
        return replace(
            code,
            weight_offset=-int(weight.median()),
            depth_offset=_fixed_point(typical) - int(depth.median()),
        )

    def _position_step(self, rows: Parameters) -> float:
        """World units."""
        longest = rows["log_scales"].double().sort(1, descending=True).values[:, :2].mean(1)
        typical = float(longest.median().clamp(-60, 60).exp()) if len(longest) else 1.0
        return self.settings.position_step * typical

    def _basis(self, rest: Tensor, weights: Tensor) -> Tensor | None:
        """(K,3 num_rest) int8, the components that will not be zero nearly everywhere."""
        if len(rest) < MIN_GAUSSIANS_FOR_BASIS or not rest.shape[1]:
            return None
        flat = rest.reshape(len(rest), -1).double() * weights[:, None]
        energies, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        count = int((energies.clamp_min(0).sqrt() > 0.35 * self.settings.rest_step).sum())
        return as_basis(vectors.flip(1)[:, :count].T)


def encode_compact(
    rows: dict[str, np.ndarray], viewpoints: Viewpoints | None = None, **settings: float
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and streams of a model.

    Args:
        rows: of :func:`compression.arrays.checked`.
        viewpoints: from where the model is looked at; None: from all around.
        settings: of :class:`CompactSettings`.

    Raises:
        FormatError: too many Gaussians.
    """
    quantizer = CompactQuantizer(CompactSettings(**settings), viewpoints)
    tensors = quantizer.prepared({name: torch.from_numpy(row) for name, row in rows.items()})
    quantizer.fit(tensors)
    return quantizer._streams(tensors)


def _turn_weight(log_ratio: float) -> int:
    """A quarter of the log2 of what turning two axes changes: the difference of their ratio and its inverse."""
    return _fixed_point(math.log2(2 * math.sinh(log_ratio) + 0.15) / 4)


def _fixed_point(octaves: float) -> int:
    return round(octaves * (WEIGHT_STEPS << FRACTION_BITS))


def _log2_sigmoid_half(logit: float) -> int:
    """Half the log2 of an opacity."""
    return _fixed_point(-(math.log1p(math.exp(-abs(logit))) + max(-logit, 0)) / math.log(2) / 2)
