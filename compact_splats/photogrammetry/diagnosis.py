"""Why photos could not be put together, in words that say what to do about it."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pycolmap

from compact_splats.utils.errors import InputError

FEW_FEATURES = 100  # of a photo; sharp ones have thousands


@dataclass(frozen=True)
class Matches:
    """What was seen in the photos before any camera was placed.

    Attributes:
        features: number of features, by the photos' names as the user knows them.
        inliers: number of matches that agree on how the camera moved, by pairs of names; only where there are enough.
    """

    features: dict[str, int]
    inliers: dict[tuple[str, str], int]

    @classmethod
    def read(cls, path: Path, sources: dict[str, str]) -> "Matches":
        """Read COLMAP's database.

        Args:
            path: of the file.
            sources: the user's names of the photos, by those in the database.
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
        for name in set(sources.values()) - set(features):  # blank ones
            features[name] = 0
        return cls(features, {(names[i], names[j]): count for (i, j), count in ids.items()})

    def connected(self) -> list[set[str]]:
        """Photos that hang together by matches, largest group first; photos without any are left out."""
        groups: list[set[str]] = []
        for pair in self.inliers:
            touched = [group for group in groups if group & set(pair)]
            groups = [group for group in groups if group not in touched] + [set(pair).union(*touched)]
        return sorted(groups, key=len, reverse=True)


def why_not(source: Path, matches: Matches) -> InputError:
    """The error that says why there is no reconstruction."""
    num_photos = len(matches.features)
    poor = [name for name, count in matches.features.items() if count < FEW_FEATURES]
    if len(poor) > num_photos - 2:
        found = f"{len(poor)} of {num_photos} almost blank (median {median(matches.features.values()):.0f} features)"
        fix = "take sharp, well lit photos of things with a pattern"
        return InputError(source, "photos with detail to recognise", found, fix)
    groups = matches.connected()
    if not groups:
        found = f"no two of the {num_photos} photos that match"
        fix = "take more photos, each showing most of what the one before shows"
        return InputError(source, "photos that overlap", found, fix)
    found = (
        f"{sum(map(len, groups))} of {num_photos} photos that match another, at most {len(groups[0])} in one group, "
        "and no two that show depth well enough to begin with"
    )
    fix = "take more photos, and take a step to the side for each instead of turning on the spot"
    return InputError(source, "photos of one place from several sides", found, fix)
