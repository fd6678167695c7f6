"""Convolution whose bits do not depend on the number of threads.

PyTorch sends a float32 convolution on a CPU to oneDNN or to MKL, by its size and, for 1x1 kernels, by the number of
threads; and MKL's sums depend on the number of threads. A video must come out in the same bytes whatever the
threads, so inference calls oneDNN directly. (That is also two to three times as fast for 1x1 kernels on one thread.)
oneDNN may still sum a *batch* in another order than a single image, so callers pass one image at a time on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONEDNN = torch.backends.mkldnn.is_available()
"""Asked once, and here: torch.compile cannot trace the question."""


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """`torch.nn.functional.conv2d`, with the same bits for any number of threads where nothing is being trained.

    x (N, C, H, W), weight (O, C, kh, kw), bias (O,) or None. bfloat16 goes to oneDNN by itself, and other devices have no such choice.
    torch.compile gets the plain operation, for it knows no shapes of the direct one's results; its own kernels promise no bits.
    """
    direct = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    if direct and ONEDNN and not torch.compiler.is_compiling():
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1), 1)
    return F.conv2d(x, weight, bias, stride, padding)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with zero padding, no dilation and no groups, computed by `conv2d` above."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W) for stride 1, half of it rounded up for stride 2."""
        return conv2d(x, self.weight, self.bias, self.stride, self.padding)


class Float32Conv2d(Conv2d):
    """A convolution that stays in float32 whatever the precision of the network around it (see `set_precision`).

    Used where few bits would be seen: the tone network, the first layer (it reads 10-bit codes) and the last one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As `Conv2d.forward`; any dtype in, float32 out, under autocast too."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def set_precision(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert every layer of a network to `dtype` except its float32 islands, in place; returns the network."""
    for module in network.modules():
        if not isinstance(module, Float32Conv2d):
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=parameter.requires_grad))
    return network


def scale_weights(layer: Conv2d, factor: float) -> None:
    """Multiply the initial weights by `factor` and zero the bias (0 makes the layer give 0)."""
    with torch.no_grad():
        layer.weight.mul_(factor)
        layer.bias.zero_()
