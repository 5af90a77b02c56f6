"""What a run can be told: frozen configs, their command line and JSON, the device, and the schedules."""

from compact_splats.arguments.config import SceneConfig, TrainConfig
from compact_splats.arguments.device import DEVICES, pick_device
from compact_splats.arguments.render import RenderConfig

__all__ = ["DEVICES", "RenderConfig", "SceneConfig", "TrainConfig", "pick_device"]
