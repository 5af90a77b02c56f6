"""Which points each training view observes, and where they lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compact_splats.scene.cameras import Camera
from compact_splats.scene.points import Points
from compact_splats.scene.posed_photo import PosedPhoto
from compact_splats.utils.errors import note

_AT_BORDER = 1e-3  # share of the observations that may fall outside of a photo by their reprojection error


def in_view(camera: Camera, xyz: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where points lie in a view. The pose says it, so that a resized or undistorted photo needs no case of its own.

    Args:
        camera: the view.
        xyz: (K,3) float in world units.

    Returns:
        Row and column (K,) int64 of the pixel, 0 where the point is not in view; depth (K,) in world units; and (K,)
        bool, whether it is in view: in front of the camera and inside the image.
    """
    local = xyz @ camera.world_to_camera[:3, :3].to(xyz).T + camera.world_to_camera[:3, 3].to(xyz)
    depth = local[:, 2]
    columns = (local[:, 0] / depth * camera.fx + camera.cx).floor()
    rows = (local[:, 1] / depth * camera.fy + camera.cy).floor()
    seen = (depth > 0) & (columns >= 0) & (columns < camera.width) & (rows >= 0) & (rows < camera.height)
    return torch.where(seen, rows, 0).long(), torch.where(seen, columns, 0).long(), depth, seen


def observed_points(points: Points, cameras: Sequence[Camera], photos: Sequence[PosedPhoto]) -> tuple[Tensor, ...]:
    """The points that each view observes; a note counts the observations that can't be used.

    Args:
        points: of the scene.
        cameras: the views.
        photos: of the views, in the same order. Those of one panorama share their observations.

    Returns:
        Of each view (K,) int64, indices of points in view, ascending; nothing, where no photo says what it observes.
    """
    if points.ids is None or not any(len(photo.observed) for photo in photos):
        return ()
    order = np.argsort(points.ids.numpy(), kind="stable")
    ids = points.ids.numpy()[order]
    total, used = dict[Path, int](), dict[Path, int]()
    result = []
    for camera, photo in zip(cameras, photos, strict=True):
        wanted = np.unique(photo.observed)
        places = np.searchsorted(ids, wanted).clip(max=max(0, len(ids) - 1))
        known = torch.from_numpy(np.sort(order[places[ids[places] == wanted]]))
        found = known[in_view(camera, points.xyz[known].double())[-1]]
        total[photo.path] = len(wanted)
        used[photo.path] = used.get(photo.path, 0) + len(found)
        result.append(found)
    num = sum(total.values())
    lost = num - sum(used.values())
    if lost > _AT_BORDER * num:
        note(
            f"{lost:,} of {num:,} observations of points can't be used and are left out: there is no "
            "such point, or it lies behind the camera or outside of the photo"
        )
    return tuple(result)
