"""What a run can be told: frozen configs, their command line and JSON, the device, and the schedules."""

from arguments.config import SceneConfig, TrainConfig
from arguments.device import DEVICES, pick_device
from arguments.render import RenderConfig

__all__ = ["DEVICES", "RenderConfig", "SceneConfig", "TrainConfig", "pick_device"]
