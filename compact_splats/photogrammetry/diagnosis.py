"""The reason why structure from motion failed, and what the user can do."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pycolmap

from compact_splats.utils.errors import InputError

FEW_FEATURES = 100  # of a photo; a sharp one has thousands


@dataclass(frozen=True)
class Matches:
    """Features and verified matches.

    Attributes:
        features: number of features by photo, with the user's names.
        inliers: number of matches that passed geometric verification, by pair of photos with enough of them.
    """

    features: dict[str, int]
    inliers: dict[tuple[str, str], int]

    @classmethod
    def read(cls, path: Path, sources: dict[str, str]) -> "Matches":
        """Read COLMAP's database.

        Args:
            path: the database.
            sources: the user's names of the photos, by their names in the database.
        """
        database = pycolmap.Database.open(path)
        try:
            names = {image.image_id: sources[image.name] for image in database.read_all_images()}
            features = {name: database.num_keypoints_for_image(number) for number, name in names.items()}
            pairs = zip(*database.read_two_view_geometry_num_inliers(), strict=True)
            enough = pycolmap.TwoViewGeometryOptions().min_num_inliers
            ids = {pycolmap.pair_id_to_image_pair(pair): count for pair, count in pairs if count >= enough}
        finally:
            database.close()
        for name in set(sources.values()) - set(features):  # blank photos
            features[name] = 0
        return cls(features, {(names[i], names[j]): count for (i, j), count in ids.items()})

    def connected(self) -> list[set[str]]:
        """Groups of photos connected by matches, the largest first, without unmatched photos."""
        groups: list[set[str]] = []
        for pair in self.inliers:
            touched = [group for group in groups if group & set(pair)]
            groups = [group for group in groups if group not in touched] + [set(pair).union(*touched)]
        return sorted(groups, key=len, reverse=True)


def failure(source: Path, matches: Matches) -> InputError:
    """The error for photos without a reconstruction."""
    num_photos = len(matches.features)
    poor = [name for name, count in matches.features.items() if count < FEW_FEATURES]
    if len(poor) > num_photos - 2:
        features = median(matches.features.values())
        return InputError(
            f"{source}: {len(poor)} of {num_photos} photos have almost no features (median {features:.0f}); take "
            "sharp, well lit photos of textured objects"
        )
    groups = matches.connected()
    if not groups:
        return InputError(
            f"{source}: no two of the {num_photos} photos match; take more photos that overlap, each showing most of "
            "what the one before shows"
        )
    return InputError(
        f"{source}: {sum(map(len, groups))} of {num_photos} photos match another one, at most {len(groups[0])} in one "
        "group, but no two have enough parallax to start from; take more photos, and step to the side for each instead "
        "of turning on the spot"
    )
