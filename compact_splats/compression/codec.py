"""Models to bytes and back: the profiles of .gsz."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compact_splats.compression import compact, compact_streams, seed
from compact_splats.compression.arrays import Arrays, checked
from compact_splats.compression.container import (
    ANTIALIASED_KEY,
    PROFILE_KEY,
    FormatError,
    marks_of,
    offset_in,
    pack,
    unpack,
)
from compact_splats.scene.parameters import SavedArrays, is_nested


@dataclass(frozen=True)
class Profile:
    """A way to store a model; its name is in the file's header under ``PROFILE_KEY``.

    Attributes:
        encode: from checked arrays, whether they are nested, and settings to header and streams.
        decode: from header and streams, which are untrusted beyond the checks of ``container.unpack``, to arrays.
    """

    encode: Callable[..., tuple[dict[str, Any], dict[str, bytes]]]
    decode: Callable[[dict[str, Any], dict[str, bytes]], Arrays]


PROFILES = {
    compact.NAME: Profile(compact.encode_compact, compact_streams.read),
    seed.NAME: Profile(seed.encode_seed, seed.decode_seed),
}
DEFAULT = compact.NAME


def encode(arrays: Arrays, profile: str = DEFAULT, **settings: Any) -> bytes:
    """Store a model.

    Args:
        arrays: by name and in the shapes of ``GaussianModel.parameters``, before activation; with marks if they
            are ``SavedArrays``. A nested model gets levels in profile "compact"; "seed" loses its order.
        profile: one of ``PROFILES``.
        settings: of the profile: ``color_basis``, ``quality`` ("small", "default", "high") and those of
            :class:`compression.compact.CompactSettings`, or ``sh_step`` of :class:`compression.seed.SeedQuantizer`.

    Returns:
        The bytes of a .gsz file.

    Raises:
        FormatError: not the arrays of a model, values that are not finite, or more Gaussians than a file can hold.
    """
    return pack(*PROFILES[profile].encode(checked(arrays), is_nested(arrays), **settings), marks_of(arrays))


def decode(data: bytes | memoryview) -> SavedArrays:
    """Read a model that :func:`encode` stored.

    Args:
        data: the whole file, untrusted. Decoding takes at most about twice the memory of the Gaussians that its header
            declares.

    Returns:
        float32 arrays, by name and in the shapes of ``GaussianModel.parameters``, finite, in the order of the file.

    Raises:
        FormatError: not a .gsz, a newer one, or a damaged one.
    """
    header, streams = unpack(data)
    profile = header.get(PROFILE_KEY)
    if not isinstance(profile, str) or profile not in PROFILES:
        raise FormatError(f"one of the profiles {', '.join(PROFILES)}", repr(profile)[:99])
    offset = offset_in(header)
    arrays = PROFILES[profile].decode(header, streams)
    return SavedArrays(arrays, header.get(ANTIALIASED_KEY) is True, offset=offset, nested=is_nested(arrays))
