"""LPIPS with VGG features in plain torch: ``net="vgg", version="0.1"`` of the ``lpips`` package.

Neither torchvision nor ``lpips`` is imported. The VGG16 weights are those in the cache of torch hub, the linear ones
those of the package's files or of the cache; what is missing is downloaded into the cache, as torchvision does.
"""

import http.client
import importlib.util
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from compact_splats.utils.errors import InputError

# Address, name in the cache, and what the SHA-256 begins with.
VGG = ("https://download.pytorch.org/models/vgg16-397923af.pth", "vgg16-397923af.pth", "397923af")
LINEAR = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth",
    "lpips-vgg-0.1.pth",
    "a78928a0af1e5f0f",
)
NO_ANSWER = 20.0  # seconds after which a download is given up
# Index in torchvision's ``features`` of each 3x3 convolution, block by block; a 2x2 max pool stands between blocks.
VGG_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
MIN_SIZE = 2 ** (len(VGG_BLOCKS) - 1)  # px; smaller images have no pixel left after the poolings
# The ImageNet statistics for images in [-1, 1].  [Zhang et al. 2018, arXiv:1801.03924]
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Lpips:
    """Learned perceptual image patch similarity [Zhang et al. 2018]: 0 for equal images, larger is worse.

    Args:
        vgg: a VGG16 checkpoint with torchvision's names (``features.0.weight`` ...); None: that in torch hub's cache,
            downloaded if it is missing (528 MB, with a progress bar).
        device: of the computation.

    Raises:
        InputError: a file of weights can't be downloaded or is not a checkpoint of this network.
    """

    def __init__(self, vgg: Path | None = None, device: torch.device | str = "cpu") -> None:
        path = vgg or cached(*VGG)
        features = _load(path, "give another with --vgg PATH")
        indices = [index for block in VGG_BLOCKS for index in block]
        self.convs = {
            i: tuple(_entry(features, f"features.{i}.{kind}", path).to(device) for kind in ("weight", "bias"))
            for i in indices
        }
        path = _linear_weights_path()
        linear = _load(path, "remove it")
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


def cache_path(name: str) -> Path:
    """Where torch hub's cache has a file of this name, if it has one."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def cached(url: str, name: str, sha256: str) -> Path:
    """A file of torch hub's cache, downloaded if it is missing.

    Args:
        url: where it is.
        name: in the cache.
        sha256: what the SHA-256 of its content begins with.

    Raises:
        InputError: it can't be downloaded, or its content is another; nothing is left in the cache then.
    """
    path = cache_path(name)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"LPIPS: downloading {url} to {path}", flush=True)
        with _impatient():
            torch.hub.download_url_to_file(url, str(path), sha256, progress=True)
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        reason = str(error).strip().splitlines()[-1][:120] if str(error).strip() else type(error).__name__
        fix = "or give its path with --vgg PATH" if name == VGG[1] else "or install the package lpips with --no-deps"
        raise InputError(f"{url} can't be downloaded ({reason}): save it as {path}, {fix}") from error
    return path


@contextmanager
def _impatient() -> Iterator[None]:
    """Connections that do not answer end in an error."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NO_ANSWER)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _linear_weights_path() -> Path:
    # find_spec locates the package without running its __init__, which would import torchvision.
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        return cached(*LINEAR)
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
