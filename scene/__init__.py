"""Photos, cameras, points and their readers, and ``GaussianModel``."""

from compact_splats.scene.cameras import Camera as Camera
from compact_splats.scene.dataset import Scene as Scene
from compact_splats.scene.dataset import load_scene as load_scene
from compact_splats.scene.points import Points as Points
