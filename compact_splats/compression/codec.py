"""Models to bytes and back: the profiles of .gsz, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compact_splats.compression import compact, compact_streams, seed
from compact_splats.compression.arrays import Arrays, checked
from compact_splats.compression.container import PROFILE_KEY, FormatError, pack, unpack


@dataclass(frozen=True)
class Profile:
    """A way to store a model; its name stands in the file's header under ``PROFILE_KEY``.

    Attributes:
        encode: checked rows and settings to header and streams; nothing else that it needs is left to the caller.
        decode: header and streams to rows. Anything may stand in the header but what ``container.unpack`` refuses.
    """

    encode: Callable[..., tuple[dict[str, Any], dict[str, bytes]]]
    decode: Callable[[dict[str, Any], dict[str, bytes]], Arrays]


PROFILES = {
    compact.NAME: Profile(compact.encode_compact, compact_streams.read),
    seed.NAME: Profile(seed.encode_seed, seed.decode_seed),
}
DEFAULT = compact.NAME


def encode(rows: Mapping[str, np.ndarray], profile: str = DEFAULT, **settings: Any) -> bytes:
    """Store a model.

    Args:
        rows: arrays in the shapes of ``GaussianModel.parameters``, before activation.
        profile: one of ``PROFILES``.
        settings: of the profile, see its encoder.

    Returns:
        The bytes of a .gsz file.

    Raises:
        FormatError: not the rows of a model, values that are not finite, or more Gaussians than a file can hold.
    """
    return pack(*PROFILES[profile].encode(checked(rows), **settings))


def decode(data: bytes | memoryview) -> Arrays:
    """Read a model that :func:`encode` stored.

    Args:
        data: the whole file. It may be damaged or made to do harm: no more memory is taken than about twice that of
            the Gaussians that it says it holds.

    Returns:
        float32 arrays in the shapes of ``GaussianModel.parameters``, finite, in an order of the file's own.

    Raises:
        FormatError: not a .gsz, a newer one, or a damaged one.
    """
    header, streams = unpack(data)
    profile = header.get(PROFILE_KEY)
    if not isinstance(profile, str) or profile not in PROFILES:
        raise FormatError(f"one of the profiles {', '.join(PROFILES)}", repr(profile)[:99])
    return PROFILES[profile].decode(header, streams)
