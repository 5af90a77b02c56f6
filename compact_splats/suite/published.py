"""The data sets of the published tables, and their rows; figures are means over all scenes of a data set."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """A data set that papers report on.

    Attributes:
        title: its name in tables.
        scenes: all of them; published means are over all.
        protocol: of the published figures; None if both protocols use the same photos.
    """

    title: str
    scenes: tuple[str, ...]
    protocol: str | None = None


@dataclass(frozen=True)
class PublishedRow:
    """The mean of one method on one data set, as published.

    Attributes:
        method: its name in the paper.
        source: the publication.
        minutes: of training, on the paper's machine; None if not published.
        mb: size of the files in MB; None if not published.
    """

    method: str
    source: str
    ssim: float
    psnr: float
    lpips: float
    gaussians: int
    minutes: float | None = None
    mb: float | None = None


DATA_SETS = {
    "mip-nerf-360": DataSet(
        "Mip-NeRF 360",
        ("bicycle", "flowers", "garden", "stump", "treehill", "bonsai", "counter", "kitchen", "room"),
        protocol="resized",
    ),
    "deep-blending": DataSet("Deep Blending", ("drjohnson", "playroom")),
    "tanks-and-temples": DataSet("Tanks & Temples", ("train", "truck")),
}

_3DGS = ("3DGS", "arXiv:2308.04079")
_IMPROVED = ("Improved-GS", "arXiv:2508.12313")
_GNS = ("GNS", "arXiv:2511.16980")
_POST_HOC = ("post-hoc gradient pruning of 3DGS", "COGS challenge, ICCV 2025")

TRAINED = {
    "mip-nerf-360": (
        PublishedRow(*_3DGS, 0.816, 27.50, 0.216, 3_320_453, 35.9),
        PublishedRow(*_IMPROVED, 0.814, 27.66, 0.233, 466_667, 8.1),
        PublishedRow(*_GNS, 0.833, 28.13, 0.207, 466_667, 12.5),
    ),
    "deep-blending": (
        PublishedRow(*_3DGS, 0.904, 29.56, 0.244, 2_819_180, 32.5),
        PublishedRow(*_IMPROVED, 0.911, 30.23, 0.244, 450_000, 6.8),
        PublishedRow(*_GNS, 0.914, 30.15, 0.233, 450_000, 9.4),
    ),
    "tanks-and-temples": (
        PublishedRow(*_3DGS, 0.849, 23.72, 0.177, 1_835_092, 19.9),
        PublishedRow(*_IMPROVED, 0.856, 24.39, 0.179, 450_000, 5.7),
        PublishedRow(*_GNS, 0.871, 24.63, 0.154, 450_000, 8.5),
    ),
}
COMPRESSED = {
    "mip-nerf-360": PublishedRow(*_POST_HOC, 0.805, 27.39, 0.254, 394_753, mb=15.28),
    "deep-blending": PublishedRow(*_POST_HOC, 0.903, 29.61, 0.264, 273_394, mb=10.05),
    "tanks-and-temples": PublishedRow(*_POST_HOC, 0.818, 23.42, 0.230, 224_698, mb=8.01),
}


def title(dataset: str) -> str:
    """The name of a data set in tables."""
    return DATA_SETS[dataset].title if dataset in DATA_SETS else dataset or "Other scenes"
