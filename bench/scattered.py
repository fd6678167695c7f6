"""Untrained networks that behave as trained ones do for a stopwatch: they sample all over the place and multiply by no zeros."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models import checkpoints, registry
from models.dcdr_unet import DCRB, TAPS
from models.model import Model, ModelSpec

SPREAD_PX = 1.0
"""Standard deviation of every block's offsets from place to place, in pixels of its map. (The shipped `small`: 0.03 to 0.42.)"""

HEAD_WEIGHT = 1e-3
"""Standard deviation of weights that a fresh network has at zero. Matrix products run faster on zeros than on anything else."""

PICTURE_PX = 96


def scattered_network(size: str, architecture: str = "dcdr_unet") -> nn.Module:
    """A fresh network of `registry.WIDTHS[size]` channels with offsets of about a pixel, and no weights of zero. Always the same."""
    network = registry.build(architecture, registry.WIDTHS[size])
    chance = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if ".aim." in name or (name.endswith("weight") and not parameter.any()):
            parameter.data.normal_(0, HEAD_WEIGHT, generator=chance)
    handles = [m.register_forward_pre_hook(_scatter) for m in network.modules() if isinstance(m, DCRB)]
    with torch.no_grad():
        network(
            torch.rand(1, 3, PICTURE_PX, PICTURE_PX, generator=chance)
        )  # block by block, each on what the last one gives
    for handle in handles:
        handle.remove()
    return network


def _scatter(block: DCRB, inputs: tuple[Tensor, ...]) -> None:
    """Shift and scale the prediction so that on this input each offset is 0 on average and they spread over SPREAD_PX."""
    spread = block.aim(inputs[0])[:, : 2 * TAPS].std(dim=(0, 2, 3)).mean()
    block.aim.weight.data.mul_(SPREAD_PX / spread)
    block.aim.bias.data.zero_()
    block.aim.bias.data.sub_(block.aim(inputs[0]).mean(dim=(0, 2, 3)))


def scattered_model(size: str, architecture: str = "dcdr_unet", device: str = "cpu") -> Model:
    """The same, ready to run on a device."""
    return Model(scattered_network(size, architecture), _spec(size, architecture), device)


def save_scattered(path: Path, size: str = "tiny") -> None:
    """The same as a checkpoint, DCDR-UNet without deeper scales."""
    checkpoints.save(path, scattered_network(size), _spec(size, "dcdr_unet"))


def _spec(size: str, architecture: str) -> ModelSpec:
    width = registry.WIDTHS[size]
    return ModelSpec(architecture, width, False, "bt1886", "bt1886", 1.0, False, "none", "Apache-2.0")
