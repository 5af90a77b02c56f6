"""The reason why structure from motion failed, and what the user can do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pycolmap

from compact_splats.utils.errors import InputError

FEW_FEATURES = 100  # of a photo; a sharp one has thousands
_TESTED_PAIRS = 60
_TESTED_FOCALS = np.geomspace(0.5, 2.0, 17)  # of the longer side of a photo
_TURN_ERROR = 0.006  # of the longer side; parallax is several times as large
_NEARLY_ALL = 0.8  # measured: all of a camera that turned; 0.1 of one that moved
SAME_PLACE = 1.0  # px; matches that move less belong to an overlay, or to a camera that rests


@dataclass(frozen=True)
class Matches:
    """Features and verified matches.

    Attributes:
        features: number of features by photo, with the user's names.
        inliers: number of matches that passed geometric verification, by pair of photos with enough of them.
        resting: number of other pairs with enough matches, most of which lie at the same place in both photos.
    """

    features: dict[str, int]
    inliers: dict[tuple[str, str], int]
    resting: int = 0

    @classmethod
    def read(cls, path: Path, sources: dict[str, str]) -> "Matches":
        """Read COLMAP's database.

        Args:
            path: the database.
            sources: the user's names of the photos, by their names in the database.
        """
        with pycolmap.Database.open(path) as database:
            names = {image.image_id: sources[image.name] for image in database.read_all_images()}
            features = {name: database.num_keypoints_for_image(number) for number, name in names.items()}
            ids = _with_enough(*database.read_two_view_geometry_num_inliers())
            matched = _with_enough(*database.read_num_matches())
            resting = sum(_rests(database, *pair) for pair in matched if pair not in ids)
        for name in set(sources.values()) - set(features):  # blank photos
            features[name] = 0
        return cls(features, {(names[i], names[j]): count for (i, j), count in ids.items()}, resting)

    def connected(self) -> list[set[str]]:
        """Groups of photos connected by matches, the largest first, without unmatched photos."""
        groups: list[set[str]] = []
        for pair in self.inliers:
            touched = [group for group in groups if group & set(pair)]
            groups = [group for group in groups if group not in touched] + [set(pair).union(*touched)]
        return sorted(groups, key=len, reverse=True)


def _with_enough(pairs: Sequence[int], counts: Sequence[int]) -> dict[tuple[int, int], int]:
    """Counts of matches by pair of images, of the pairs with as many as COLMAP's verification asks for."""
    enough = pycolmap.TwoViewGeometryOptions().min_num_inliers
    found = zip(pairs, counts, strict=True)
    return {pycolmap.pair_id_to_image_pair(pair): count for pair, count in found if count >= enough}


def _rests(database: pycolmap.Database, first: int, second: int) -> bool:
    matches = database.read_matches(first, second)
    places = [database.read_keypoints(image)[:, :2] for image in (first, second)]
    moved = np.linalg.norm(places[0][matches[:, 0]] - places[1][matches[:, 1]], axis=1)
    return bool(np.median(moved) < SAME_PLACE)


def only_turned(path: Path) -> bool:
    """Whether the camera turned on the spot: in nearly all pairs one rotation explains nearly all matches.

    COLMAP may bend the lens until such photos seem to have parallax, and then give a model that is none.
    """
    with pycolmap.Database.open(path) as database:
        matched = list(_with_enough(*database.read_two_view_geometry_num_inliers()))
        chosen = [matched[i] for i in np.unique(np.linspace(0, len(matched) - 1, _TESTED_PAIRS).astype(int))]
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        lenses = {image.image_id: cameras[image.camera_id] for image in database.read_all_images()}
        points = [_matched_points(database, lenses, *pair) for pair in chosen]
    explained = ([_explained(*pair, focal) for pair in points] for focal in _TESTED_FOCALS)
    return any(np.quantile(fractions, 1 - _NEARLY_ALL) > _NEARLY_ALL for fractions in explained)


def _matched_points(
    database: pycolmap.Database, lenses: dict[int, pycolmap.Camera], first: int, second: int
) -> tuple[np.ndarray, np.ndarray]:
    """(M,2) of each photo: from the middle, as fractions of the longer side."""
    matches = database.read_two_view_geometry(first, second).inlier_matches
    points = []
    for image, rows in ((first, matches[:, 0]), (second, matches[:, 1])):
        size = np.array([lenses[image].width, lenses[image].height])
        points.append((database.read_keypoints(image)[rows, :2] - size / 2) / size.max())
    return points[0], points[1]


def _explained(first: np.ndarray, second: np.ndarray, focal: float) -> float:
    """The fraction of matches that the best rotation explains, by Kabsch's method with weights of 1 / error."""
    rays = [np.c_[points, np.full(len(points), focal)] for points in (first, second)]
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in rays)
    weights = np.ones((len(a), 1))
    for _ in range(5):
        u, _, vt = np.linalg.svd((b * weights).T @ a)
        turned = a @ (u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt).T
        errors = np.linalg.norm(turned[:, :2] / turned[:, 2:] * focal - second, axis=1)
        weights = 1 / np.maximum(errors, _TURN_ERROR)[:, None]
    return float(np.mean(errors < _TURN_ERROR))


def few(matches: Matches, registered: set[str]) -> str:
    """Why photos are not registered, by number of photos and cause.

    Args:
        matches: features and matches.
        registered: the user's names of the registered photos.
    """
    left = {name for name in matches.features if name not in registered}
    poor = {name for name in left if matches.features[name] < FEW_FEATURES}
    matched = {name for pair in matches.inliers for name in pair}
    counts = (
        (len(poor), "have almost no features: blurred, dark or bare"),
        (len(left - poor - matched), "match no other photo: too little overlap, or another place"),
        (
            len((left - poor) & matched),
            "match others but get no pose: the camera turned on the spot or hardly moved, something moved, or the zoom "
            "changed",
        ),
    )
    return "; ".join(f"{count} {text}" for count, text in counts if count)


def failure(source: str, matches: Matches) -> InputError:
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
    if not groups and matches.resting:
        return InputError(
            f"{source}: what matches in the photos is always at the same place, so the camera did not move, or only an "
            "overlay such as a logo matches; walk around the object, with a step to the side for each photo"
        )
    if not groups:
        return InputError(
            f"{source}: no two of the {num_photos} photos match; take more photos that overlap, each showing most of "
            "what the one before shows"
        )
    return InputError(
        f"{source}: {sum(map(len, groups))} of {num_photos} photos match another one, at most {len(groups[0])} in one "
        "group, but no two have enough parallax to start from: the camera turned on the spot, or hardly moved; take "
        "more photos, and step to the side for each"
    )
