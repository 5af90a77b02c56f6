"""The report of a conversion: ``convert.json``, and lines for the terminal."""

import shlex
from pathlib import Path
from typing import Any

import pycolmap

from compact_splats.arguments.convert import ConvertConfig
from compact_splats.arguments.options import to_json
from compact_splats.photogrammetry.diagnosis import few
from compact_splats.photogrammetry.photos import InputPhotos
from compact_splats.photogrammetry.reconstruction import Result
from compact_splats.photogrammetry.stages import Stages
from compact_splats.utils.errors import one_line

_TOO_FEW = 0.5  # fraction of the photos; if fewer are registered, there is a warning
_FEW = 0.8  # fraction of the photos; if fewer are registered, the report gives advice
_NAMES_SHOWN = 20


def warn_of_few(inputs: InputPhotos, result: Result, stages: Stages) -> None:
    """Warn if less than half of the photos are registered."""
    registered = {photo.source for photo in inputs.photos if photo.name in _registered(result.model)}
    if len(registered) < _TOO_FEW * len(inputs.photos):
        stages.warn(
            f"only {len(registered)} of {len(inputs.photos)} photos are registered, and the scene is a small part of "
            f"what they show; of the others, {few(result.matches, registered)}"
        )


def summarize(config: ConvertConfig, inputs: InputPhotos, result: Result, stages: Stages) -> dict[str, Any]:
    """The content of ``convert.json``."""
    model, seconds = result.model, stages.seconds
    registered = _registered(model)
    return {
        "photos": len(inputs.photos) + len(inputs.unreadable),
        "registered": len(registered),
        "left_out": [photo.source for photo in inputs.photos if photo.name not in registered],
        "unreadable": inputs.unreadable,
        "notes": stages.notes,
        "renamed": {
            photo.source: photo.name
            for photo in inputs.photos
            if photo.name in registered and photo.name != photo.source
        },
        "other_parts": result.other_parts,
        "cameras": [_camera(camera) for camera in _used_cameras(model)],
        "mean_reprojection_error_px": model.compute_mean_reprojection_error(),
        "points": model.num_points3D(),
        "observations": model.compute_num_observations(),
        "matching": "sequential" if result.sequential else "exhaustive",
        "matched_pairs": len(result.matches.inliers),
        "features": sum(result.matches.features.values()),
        "seconds": {label: round(value, 2) for label, value in seconds.items()},
        "pycolmap": pycolmap.__version__,
        "config": to_json(config),
    }


def describe(summary: dict[str, Any], scene: Path) -> str:
    """The lines for the terminal."""
    seconds = summary["seconds"]
    stages = ", ".join(f"{label} {_readable(value)}" for label, value in seconds.items())
    cameras = [f"{each['model']} {each['width']}x{each['height']}" for each in summary["cameras"]]
    lines = [
        ("photos", f"{summary['registered']} of {summary['photos']} registered"),
        *_left_out(summary),
        ("cameras", f"{len(cameras)} ({', '.join(cameras[:3])}{', ...' if len(cameras) > 3 else ''})"),
        (
            "points",
            f"{summary['points']:,} from {summary['observations']:,} observations, "
            f"mean reprojection error {summary['mean_reprojection_error_px']:.2f} px",
        ),
        ("matches", f"{summary['matched_pairs']:,} pairs of photos, {summary['matching']} matching"),
        ("time", f"{_readable(sum(seconds.values()))}: {stages}"),
        ("scene", str(scene)),
        ("next", f"python train.py -s {shlex.quote(str(scene))} --final-budget 100000"),
    ]
    return "\n".join(f"{label:12} {text}" if text else "" for label, text in lines)


def _left_out(summary: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("unreadable", one_line(message)) for message in summary["unreadable"].values()]
    if summary["left_out"]:
        lines.append(("left out", f"{_names(summary['left_out'])}: too few matches with the others"))
    if summary["other_parts"]:
        parts = " and ".join(map(str, summary["other_parts"]))
        lines.append(("", f"other parts, of {parts} photos, are not connected with this one, the largest"))
    if summary["registered"] < _FEW * summary["photos"]:
        more = ", or try --matching exhaustive" if summary["matching"] == "sequential" else ""
        lines.append(("", f"to register more photos: take photos in between{more}"))
    return lines


def _names(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return one_line(", ".join(names[:_NAMES_SHOWN])) + (f" and {more} more (convert.json has all)" if more > 0 else "")


def _registered(model: pycolmap.Reconstruction) -> set[str]:
    return {image.name for image in model.images.values() if image.has_pose}


def _used_cameras(model: pycolmap.Reconstruction) -> list[pycolmap.Camera]:
    used = {image.camera_id for image in model.images.values() if image.has_pose}
    return [model.camera(number) for number in sorted(used)]


def _camera(camera: pycolmap.Camera) -> dict[str, Any]:
    return {
        "model": camera.model_name,
        "width": camera.width,
        "height": camera.height,
        "params": [float(value) for value in camera.params],
    }


def _readable(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
