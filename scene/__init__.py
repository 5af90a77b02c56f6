"""Scenes on disk (photos, cameras, points) and the set of Gaussians that is fitted to them."""

from scene.cameras import Camera as Camera
from scene.dataset import Scene as Scene
from scene.dataset import load_scene as load_scene
from scene.points import Points as Points
