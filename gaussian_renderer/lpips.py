"""LPIPS with VGG features in plain torch: the distance that the ``lpips`` package calls ``net="vgg", version="0.1"``.

Neither torchvision nor the ``lpips`` code is imported: the linear weights are read from that package's data, and the
VGG16 weights from the checkpoint in torch hub's cache. Nothing is downloaded here.
"""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from compact_splats.utils.errors import InputError

VGG_CHECKPOINT = "vgg16-397923af.pth"
INSTALL_LPIPS = "pip install --no-deps -r requirements-lpips.txt"
# Index in torchvision's ``features`` of each 3x3 convolution, block by block; a 2x2 max pool stands between blocks.
VGG_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
MIN_SIZE = 2 ** (len(VGG_BLOCKS) - 1)  # px; below it nothing is left after the poolings
# The ImageNet statistics, seen from images in [-1, 1].  [Zhang et al. 2018, arXiv:1801.03924]
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Lpips:
    """Learned perceptual image patch similarity [Zhang et al. 2018]: 0 for equal images, larger is worse.

    Args:
        vgg: a VGG16 checkpoint with torchvision's names (``features.0.weight`` ...); None takes torch hub's cache.
        device: where to compute.

    Raises:
        InputError: a weights file is missing or is not what it should be.
    """

    def __init__(self, vgg: Path | None = None, device: torch.device | str = "cpu") -> None:
        path = vgg or Path(torch.hub.get_dir()) / "checkpoints" / VGG_CHECKPOINT
        features = _load(path, "download it there, or name it with --vgg PATH")
        indices = [index for block in VGG_BLOCKS for index in block]
        self.convs = {
            i: tuple(_entry(features, f"features.{i}.{kind}", path).to(device) for kind in ("weight", "bias"))
            for i in indices
        }
        path = _linear_weights_path()
        linear = _load(path, f"run {INSTALL_LPIPS}")
        self.linear = [_entry(linear, f"lin{k}.model.1.weight", path).to(device) for k in range(len(VGG_BLOCKS))]
        self.shift = torch.tensor(SHIFT, device=device).view(3, 1, 1)
        self.scale = torch.tensor(SCALE, device=device).view(3, 1, 1)

    @torch.no_grad()
    def __call__(self, image: Tensor, photo: Tensor) -> Tensor:
        """Distance of two (3,H,W) float32 images in [0, 1], of MIN_SIZE pixels or more each way; a scalar.

        They are fed as they are, though the network was calibrated on [-1, 1]: the convention of 3DGS, which all its
        successors' tables keep.
        """
        x, y = ((i - self.shift) / self.scale for i in (image, photo))
        distance = torch.zeros((), device=image.device)
        for k, (block, linear) in enumerate(zip(VGG_BLOCKS, self.linear, strict=True)):
            x, y = (self._block(i, block, pool=k > 0) for i in (x, y))
            distance += F.conv2d((_unit(x) - _unit(y)).square(), linear).mean()
        return distance

    def _block(self, x: Tensor, block: tuple[int, ...], pool: bool) -> Tensor:
        if pool:
            x = F.max_pool2d(x, 2)
        for index in block:
            x = F.relu_(F.conv2d(x, *self.convs[index], padding=1))
        return x


def _unit(x: Tensor) -> Tensor:
    """Scale the channel vector of each pixel of (C,H,W) to length 1."""
    return x / (x.norm(dim=0, keepdim=True) + 1e-10)


def _linear_weights_path() -> Path:
    # find_spec locates the package without running its __init__, which would import torchvision.
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("the lpips package", "its linear weights", "no such package", f"run {INSTALL_LPIPS}")
    return Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / "vgg.pth"


def _load(path: Path, remedy: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(path, "a checkpoint for LPIPS", "no such file", remedy)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler or zip reader stumbles on
        raise InputError(
            path, "a torch checkpoint", f"a file that torch cannot load ({type(error).__name__})", remedy
        ) from error
    if not isinstance(state, dict):
        raise InputError(path, "a dictionary of tensors", type(state).__name__, remedy)
    return state


def _entry(state: dict[str, Tensor], key: str, path: Path) -> Tensor:
    if key not in state:
        raise InputError(path, f"an entry {key}", f"{len(state)} others", "name another checkpoint with --vgg PATH")
    return state[key]
