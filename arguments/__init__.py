"""The flags of all commands as frozen dataclasses, the schedules, and the choice of the device."""

from compact_splats.arguments.config import SceneConfig, TrainConfig
from compact_splats.arguments.device import DEVICES, pick_device

__all__ = ["DEVICES", "SceneConfig", "TrainConfig", "pick_device"]
