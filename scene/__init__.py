"""Photos, cameras, points and their readers, and ``GaussianModel``. The names below load when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compact_splats.scene.cameras import Camera as Camera
    from compact_splats.scene.dataset import Scene as Scene
    from compact_splats.scene.dataset import load_scene as load_scene
    from compact_splats.scene.points import Points as Points

_HOMES = {"Camera": "cameras", "Scene": "dataset", "load_scene": "dataset", "Points": "points"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
