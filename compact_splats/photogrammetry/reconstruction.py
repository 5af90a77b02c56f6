"""Structure from motion by COLMAP on the CPU: features, matches, poses and points.

COLMAP is called for small batches, so that progress is shown and the user can stop it. Python's sqlite3 must not open
its database: a second copy of SQLite in the process would release COLMAP's file locks.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from compact_splats.arguments.convert import ConvertConfig
from compact_splats.photogrammetry.diagnosis import SAME_PLACE, Matches, failure, only_turned
from compact_splats.photogrammetry.pairs import is_sequential, pairs_to_match
from compact_splats.photogrammetry.photos import InputPhoto, InputPhotos
from compact_splats.photogrammetry.stages import Stages
from compact_splats.scene.lens import FACES
from compact_splats.utils.pictures import picture_size

MIN_OPENCV_PHOTOS = 20  # per lens: with fewer, the eight parameters of OPENCV would fit noise
_PHOTOS_PER_BATCH = 4  # for each thread
_PAIRS_PER_BATCH = 128
_MIN_PART = 2  # photos
MIN_POINTS = 20  # of a part; a camera that turns on the spot gives none or a few
_MIN_THREE_VIEW_PHOTOS = 5  # with fewer photos, points seen by two of them are kept, as few are seen by three

pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)  # diagnosis.py reports failures
pycolmap.logging.alsologtostderr = False


@dataclass(frozen=True)
class Result:
    """The result of structure from motion.

    Attributes:
        model: the largest connected part, with distorted lenses.
        other_parts: numbers of photos of the other parts, largest first.
        matches: features and matches.
        sequential: whether matching was sequential.
    """

    model: pycolmap.Reconstruction
    other_parts: list[int]
    matches: Matches
    sequential: bool


def reconstruct(
    inputs: InputPhotos, is_video: bool, work: Path, config: ConvertConfig, stages: Stages, threads: int
) -> Result:
    """Estimate poses, lenses and points.

    Args:
        inputs: the photos.
        is_video: the photos are frames of a video.
        work: folder for COLMAP's database ``database.db`` and other files.
        config: the flags.
        stages: shows the progress.
        threads: number of CPU threads.

    Raises:
        InputError: there is no reconstruction; see :func:`failure`.
    """
    database, names = work / "database.db", [photo.name for photo in inputs.photos]
    _extract(inputs, database, config, stages, threads)
    _join_faces(inputs, database)
    sequential = is_sequential(config.matching, len(names), is_video)
    _match(database, names, pairs_to_match(len(names), sequential), config.seed, stages, threads)
    matches = Matches.read(database, {photo.name: photo.source for photo in inputs.photos})
    is_possible = bool(matches.inliers) and not only_turned(database)
    parts = _map(inputs, database, work, config.seed, stages, threads) if is_possible else []
    parts = [part for part in parts if part.num_points3D() >= MIN_POINTS]
    if not parts:
        raise failure(", ".join(map(str, config.inputs)), matches)
    largest, *others = sorted(parts, key=lambda part: (part.num_reg_images(), part.num_points3D()), reverse=True)
    return Result(largest, [part.num_reg_images() for part in others], matches, sequential)


def _extract(inputs: InputPhotos, database: Path, config: ConvertConfig, stages: Stages, threads: int) -> None:
    """Extract features, and assign each photo its camera."""
    lenses: dict[Hashable, list[InputPhoto]] = defaultdict(list)
    for photo in inputs.photos:
        lenses[photo.lens if config.camera == "shared" or photo.panorama else photo.name].append(photo)
    model = config.model
    if model == "auto":
        model = "OPENCV" if len(inputs.photos) >= MIN_OPENCV_PHOTOS * len(lenses) else "SIMPLE_RADIAL"
    options = pycolmap.FeatureExtractionOptions(max_image_size=config.max_size, num_threads=threads, use_gpu=False)
    batches = [batch for photos in lenses.values() for batch in _batches_of_lens(photos, _PHOTOS_PER_BATCH * threads)]
    single, cpu = pycolmap.CameraMode.SINGLE, pycolmap.Device.cpu
    for first, photos in stages.each("features", batches, len(inputs.photos), size=lambda batch: len(batch[1])):
        reader = pycolmap.ImageReaderOptions(camera_model=model)
        if first.panorama:
            half = _face_side(inputs, first) / 2
            reader.camera_model, reader.camera_params = "SIMPLE_PINHOLE", f"{half},{half},{half}"
        if first not in photos:
            reader.existing_camera_id = camera_of(database, first.name)
        if photos[0].has_mask:
            reader.mask_path = inputs.masks
        names = [photo.name for photo in photos]
        pycolmap.extract_features(database, inputs.folder, names, single, reader, options, cpu)


def _face_side(inputs: InputPhotos, photo: InputPhoto) -> int:
    return picture_size(inputs.folder / photo.name)[0]


def _join_faces(inputs: InputPhotos, path: Path) -> None:
    """Tell COLMAP that the faces of a panorama have one place, and known directions."""
    folders = sorted({photo.panorama for photo in inputs.photos if photo.panorama})
    if not folders:
        return
    configs = []
    for folder in folders:
        rig: list[pycolmap.RigConfigCamera] = []
        for face, to_photo in FACES:
            turn = pycolmap.Rigid3d(pycolmap.Rotation3d(to_photo.T), np.zeros(3))
            camera = pycolmap.RigConfigCamera(image_prefix=f"{folder}/{face}/", ref_sensor=not rig)
            if rig:
                camera.cam_from_rig = turn
            rig.append(camera)
        configs.append(pycolmap.RigConfig(cameras=rig))
    with pycolmap.Database.open(path) as database:
        pycolmap.apply_rig_config(configs, database)


def _batches_of_lens(photos: list[InputPhoto], size: int) -> Iterator[tuple[InputPhoto, list[InputPhoto]]]:
    """The first photo of the lens with each batch of at most ``size`` photos, all with masks or all without."""
    groups = [[photo for photo in photos if photo.has_mask == masked] for masked in (False, True)]
    first = next(photo for group in groups for photo in group)
    for group in groups:
        yield from ((first, group[start : start + size]) for start in range(0, len(group), size))


def camera_of(path: Path, name: str) -> int:
    """The id of a photo's camera; -1, for a new camera, if the photo had no features."""
    with pycolmap.Database.open(path) as database:
        image = database.read_image_with_name(name)
        return -1 if image is None else image.camera_id


def _match(
    database: Path, names: list[str], pairs: list[tuple[int, int]], seed: int, stages: Stages, threads: int
) -> None:
    """Match pairs of photos, with geometric verification."""
    listed = database.with_name("pairs.txt")
    matching = pycolmap.FeatureMatchingOptions(num_threads=threads, use_gpu=False)
    pairing = pycolmap.ImportedPairingOptions(match_list_path=listed)
    verification = pycolmap.TwoViewGeometryOptions(
        filter_stationary_matches=True, stationary_matches_max_error=SAME_PLACE
    )
    verification.ransac.random_seed = seed
    for batch in stages.each("matching", _batches_of_pairs(pairs), len(pairs), "pair", size=len):
        listed.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in batch), encoding="utf-8")
        pycolmap.match_image_pairs(database, matching, pairing, verification, pycolmap.Device.cpu)


def _batches_of_pairs(pairs: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Batches with few different photos, as COLMAP reads the features of the photos of each batch anew."""
    side = round(_PAIRS_PER_BATCH**0.5)
    ordered = sorted(pairs, key=lambda pair: (pair[0] // side, pair[1] // side, pair))
    return (ordered[start : start + _PAIRS_PER_BATCH] for start in range(0, len(ordered), _PAIRS_PER_BATCH))


def _map(
    inputs: InputPhotos, database: Path, work: Path, seed: int, stages: Stages, threads: int
) -> list[pycolmap.Reconstruction]:
    """Incremental mapping; the connected parts."""
    options = pycolmap.IncrementalPipelineOptions(min_model_size=_MIN_PART, num_threads=threads, random_seed=seed)
    options.triangulation.ignore_two_view_tracks = len(inputs.photos) >= _MIN_THREE_VIEW_PHOTOS
    faces = {photo.lens: photo.name for photo in inputs.photos if photo.panorama}
    options.constant_cameras = {camera_of(database, name) for name in faces.values()} - {-1}
    options.ba_refine_sensor_from_rig = False
    if len(inputs.photos) == 2:  # two photos do not determine the focal length
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
    placed, parts = [], work / "parts"
    parts.mkdir()

    def place(token: pycolmap.CancellationToken) -> dict[int, pycolmap.Reconstruction]:
        return pycolmap.incremental_mapping(
            database,
            inputs.folder,
            parts,
            options,
            initial_image_pair_callback=lambda: placed.extend((1, 1)),
            next_image_callback=lambda: placed.append(1),
            cancellation_token=token,
        )

    return list(stages.run("mapping", len(inputs.photos), place, lambda: len(placed)).values())
