"""Structure from motion by COLMAP on the CPU: features, matches, cameras and points. Knows ready photos only.

COLMAP is given small portions, so that progress shows and the user can stop it. Its database is not looked into
meanwhile: a second copy of SQLite in the process would undo the locks of COLMAP's.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pycolmap

from compact_splats.arguments.convert import ConvertConfig
from compact_splats.photogrammetry.diagnosis import Matches, why_not
from compact_splats.photogrammetry.pairs import is_sequential, pairs_to_match
from compact_splats.photogrammetry.photos import Ready, ReadyPhoto
from compact_splats.photogrammetry.stages import Stages

FEW_PHOTOS = 20  # of a lens: with fewer, the eight numbers of OPENCV would fit noise
_PHOTOS_AT_ONCE = 4  # for each thread
_PAIRS_AT_ONCE = 128
_SMALLEST_PART = 2  # photos
_FEW_VIEWS = 5  # photos; of fewer, too few points would be seen three times

pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)  # what goes wrong is told by diagnosis.py
pycolmap.logging.alsologtostderr = False


@dataclass(frozen=True)
class Found:
    """What structure from motion has found.

    Attributes:
        model: the largest connected part, lenses with distortion.
        others: numbers of photos of the other parts, largest first.
        matches: what was seen on the way.
        sequential: only neighbours were compared.
    """

    model: pycolmap.Reconstruction
    others: list[int]
    matches: Matches
    sequential: bool


def reconstruct(ready: Ready, is_video: bool, work: Path, config: ConvertConfig, stages: Stages, threads: int) -> Found:
    """Find out where photos were taken.

    Args:
        ready: the photos.
        is_video: they are in the order in which they were taken.
        work: folder for COLMAP's database ``database.db`` and other files.
        config: what to do.
        stages: that shows the progress.
        threads: that compute.

    Raises:
        InputError: the photos don't show one place from several sides, as far as can be seen.
    """
    database, names = work / "database.db", [photo.name for photo in ready.photos]
    _extract(ready, database, config, stages, threads)
    sequential = is_sequential(config.matching, len(names), is_video)
    _match(database, names, pairs_to_match(len(names), sequential), config.seed, stages, threads)
    matches = Matches.read(database, {photo.name: photo.source for photo in ready.photos})
    parts = _map(ready, database, work, config.seed, stages, threads) if matches.inliers else []
    if not parts:
        raise why_not(config.input, matches)
    largest, *others = sorted(parts, key=lambda part: (part.num_reg_images(), part.num_points3D()), reverse=True)
    return Found(largest, [part.num_reg_images() for part in others], matches, sequential)


def _extract(ready: Ready, database: Path, config: ConvertConfig, stages: Stages, threads: int) -> None:
    """Find features, and give each photo its camera."""
    lenses: dict[Hashable, list[ReadyPhoto]] = defaultdict(list)
    for photo in ready.photos:
        lenses[photo.lens if config.camera == "shared" else photo.name].append(photo)
    lens_model = _lens_model(config.model, len(ready.photos), len(lenses))
    options = pycolmap.FeatureExtractionOptions(max_image_size=config.max_size, num_threads=threads, use_gpu=False)
    portions = [part for photos in lenses.values() for part in _parts_of_a_lens(photos, _PHOTOS_AT_ONCE * threads)]
    single, cpu = pycolmap.CameraMode.SINGLE, pycolmap.Device.cpu
    for first, photos in stages.each("features", portions, len(ready.photos), size=lambda portion: len(portion[1])):
        reader = pycolmap.ImageReaderOptions(camera_model=lens_model)
        if first not in photos:
            reader.existing_camera_id = _camera_of(database, first.name)
        if photos[0].has_mask:
            reader.mask_path = ready.masks
        names = [photo.name for photo in photos]
        pycolmap.extract_features(database, ready.folder, names, single, reader, options, cpu)


def _parts_of_a_lens(photos: list[ReadyPhoto], size: int) -> Iterator[tuple[ReadyPhoto, list[ReadyPhoto]]]:
    """At most ``size`` photos at a time, all with masks or all without, beside the first photo of all."""
    groups = [[photo for photo in photos if photo.has_mask == masked] for masked in (False, True)]
    first = next(photo for group in groups for photo in group)
    for group in groups:
        yield from ((first, group[start : start + size]) for start in range(0, len(group), size))


def _lens_model(wanted: str, num_photos: int, num_lenses: int) -> str:
    if wanted != "auto":
        return wanted
    return "OPENCV" if num_photos >= FEW_PHOTOS * num_lenses else "SIMPLE_RADIAL"


def _camera_of(path: Path, name: str) -> int:
    """The number of a photo's camera; -1, as for a new one, where the photo had no features at all."""
    database = pycolmap.Database.open(path)
    try:
        image = database.read_image_with_name(name)
        return -1 if image is None else image.camera_id
    finally:
        database.close()


def _match(
    database: Path, names: list[str], pairs: list[tuple[int, int]], seed: int, stages: Stages, threads: int
) -> None:
    """Compare pairs of photos, and keep the matches that agree on how the camera moved."""
    listed = database.with_name("pairs.txt")
    matching = pycolmap.FeatureMatchingOptions(num_threads=threads, use_gpu=False)
    pairing = pycolmap.ImportedPairingOptions(match_list_path=listed)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    for portion in stages.each("matching", _portions(pairs), len(pairs), "pair", size=len):
        listed.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in portion), encoding="utf-8")
        pycolmap.match_image_pairs(database, matching, pairing, verification, pycolmap.Device.cpu)


def _portions(pairs: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Pairs of few photos together, as each portion reads the features of its photos anew."""
    side = round(_PAIRS_AT_ONCE**0.5)
    ordered = sorted(pairs, key=lambda pair: (pair[0] // side, pair[1] // side, pair))
    return (ordered[start : start + _PAIRS_AT_ONCE] for start in range(0, len(ordered), _PAIRS_AT_ONCE))


def _map(
    ready: Ready, database: Path, work: Path, seed: int, stages: Stages, threads: int
) -> list[pycolmap.Reconstruction]:
    """Place cameras and points, one camera after another; the connected parts that were found."""
    options = pycolmap.IncrementalPipelineOptions(min_model_size=_SMALLEST_PART, num_threads=threads, random_seed=seed)
    options.triangulation.ignore_two_view_tracks = len(ready.photos) >= _FEW_VIEWS
    if len(ready.photos) == 2:  # they don't tell the focal length
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
    placed, parts = [], work / "parts"
    parts.mkdir()

    def place(token: pycolmap.CancellationToken) -> dict[int, pycolmap.Reconstruction]:
        return pycolmap.incremental_mapping(
            database,
            ready.folder,
            parts,
            options,
            initial_image_pair_callback=lambda: placed.extend((1, 1)),
            next_image_callback=lambda: placed.append(1),
            cancellation_token=token,
        )

    return list(stages.run("mapping", len(ready.photos), place, lambda: len(placed)).values())
