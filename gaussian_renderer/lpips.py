"""LPIPS with VGG features in plain torch: ``net="vgg", version="0.1"`` of the ``lpips`` package.

Neither torchvision nor ``lpips`` is imported: the linear weights are read from the files of that package, the VGG16
weights from the checkpoint in the cache of torch hub. Nothing is downloaded.
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
MIN_SIZE = 2 ** (len(VGG_BLOCKS) - 1)  # px; smaller images have no pixel left after the poolings
# The ImageNet statistics for images in [-1, 1].  [Zhang et al. 2018, arXiv:1801.03924]
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Lpips:
    """Learned perceptual image patch similarity [Zhang et al. 2018]: 0 for equal images, larger is worse.

    Args:
        vgg: a VGG16 checkpoint with torchvision's names (``features.0.weight`` ...); None: that in torch hub's cache.
        device: of the computation.

    Raises:
        InputError: a file of weights is missing or is not a checkpoint of this network.
    """

    def __init__(self, vgg: Path | None = None, device: torch.device | str = "cpu") -> None:
        path = vgg or Path(torch.hub.get_dir()) / "checkpoints" / VGG_CHECKPOINT
        features = _load(path, "download it there, or give its path with --vgg PATH")
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
        """Distance of two (3,H,W) float32 images in [0, 1], of at least MIN_SIZE x MIN_SIZE px; () float32.

        The images are not scaled to [-1, 1], for which the network was calibrated: the published tables of 3DGS and
        of the methods after it are measured so.
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
            weight, bias = self.convs[index]
            x = F.relu_(F.conv2d(x, weight, bias, padding=1))
        return x


def _unit(x: Tensor) -> Tensor:
    """Scale the channel vector of each pixel of (C,H,W) to length 1."""
    return x / (x.norm(dim=0, keepdim=True) + 1e-10)


def _linear_weights_path() -> Path:
    # find_spec locates the package without running its __init__, which would import torchvision.
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the lpips package is not installed, which has the weights of LPIPS: run {INSTALL_LPIPS}")
    return Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / "vgg.pth"


def _load(path: Path, remedy: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"LPIPS checkpoint {path} does not exist: {remedy}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises any exception of its unpickler or zip reader
        raise InputError(f"{path} is not a torch checkpoint ({type(error).__name__}): {remedy}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} does not hold a dictionary of tensors: {remedy}")
    return state


def _entry(state: dict[str, Tensor], key: str, path: Path) -> Tensor:
    if key not in state:
        raise InputError(f"{path} has no entry {key}: use another checkpoint with --vgg PATH")
    return state[key]
