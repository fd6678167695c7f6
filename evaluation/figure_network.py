"""Looking into a network: its summands, what its last DCRB aims at, and where the value of one pixel comes from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.dcdr_unet import DCRB, TAPS, Inspection
from models.encodings import decode
from models.model import Model
from pipeline.errors import InputError

Array = np.ndarray
CLIPPED_SIGNAL = 0.97
"""A pixel counts as clipped from this share of the coded range on, in any channel: compression makes saturated areas waver."""

INSPECT_BUDGET_BYTES = 1_500_000_000
"""Working memory that one look may take; larger pictures are looked at through a window."""

INFLUENCE_SIDE_PX = {16: 512, 32: 448, 64: 320}
"""Width of the network -> side of the window for `influence`: gradients keep every layer's maps (1.0 to 1.6 GB, measured)."""


@dataclass(frozen=True)
class Window:
    """A part of a picture, in pixels; its corner is on a multiple of the network's strides."""

    left: int
    top: int
    width: int
    height: int

    def holds(self, x: int, y: int, margin: int, picture: tuple[int, int]) -> bool:
        """Whether (x, y) lies inside, `margin` pixels from every side that is not a side of the picture (height, width)."""
        before_x, before_y = x - self.left, y - self.top
        after_x, after_y = self.left + self.width - 1 - x, self.top + self.height - 1 - y
        if min(before_x, before_y, after_x, after_y) < 0:
            return False
        return (
            (before_x >= margin or self.left == 0)
            and (before_y >= margin or self.top == 0)
            and (after_x >= margin or self.left + self.width == picture[1])
            and (after_y >= margin or self.top + self.height == picture[0])
        )


@dataclass(frozen=True)
class Look:
    """What a network does in a window.

    tone, summed: (h, w, 3) linear light, SDR white = 1.0: of the first summand alone, and of the sum, which is `Model.restore`'s
    inspection: None for networks that have no DCRB
    map_scale: picture pixels per pixel of the last DCRB's maps (0 without); map pixel (i, j) covers rows i*scale to i*scale+scale-1
    """

    window: Window
    tone: Array
    summed: Array
    inspection: Inspection | None
    map_scale: int


@dataclass(frozen=True)
class Sampling:
    """The 9 places that the last DCRB samples for one pixel, row by row of its kernel.

    positions, plain: (9, 2) x and y in pixels of the whole picture (whole numbers are pixel centres), learned and undeformed
    weights: (9,) the modulation mask, 0 to 1
    """

    positions: Array
    plain: Array
    weights: Array


def clipped_pixels(signal: Array) -> Array:
    """(H, W) largest channel of the coded signal -> bool (H, W)."""
    return signal >= CLIPPED_SIGNAL


def has_blocks(model: Model) -> bool:
    """Whether the network has DCRBs to look into (feature maps, sampling positions)."""
    return any(isinstance(module, DCRB) for module in model.network.modules())


def window_for(model: Model, centre: tuple[int, int], size: tuple[int, int]) -> Window:
    """The whole picture of `size` (height, width) when the look fits into memory, else a window around `centre` (x, y)."""
    height, width = size
    side = 4096
    while side > 256 and _look_bytes(model, min(side, height), min(side, width)) > INSPECT_BUDGET_BYTES:
        side -= 64
    return _window(centre, size, side, model.spec.size_multiple)


def look(model: Model, coded: Tensor, window: Window) -> Look:
    """Run the network once on a window of the coded picture (1, 3, H, W) in [0, 1]."""
    part = _cut(coded, window)
    with torch.no_grad():
        if has_blocks(model):
            inspection = model.network.inspect(part)
            tone, restored = inspection.tone, inspection.restored
        else:
            inspection = None
            tone, restored = model.network.parts(part)
        tone_light, summed = (_light(model, code) for code in (tone, tone + restored))
    scale = 0
    if inspection is not None:
        multiple = model.spec.size_multiple
        scale = -(-window.width // multiple) * multiple // inspection.offsets.shape[3]
    return Look(window, tone_light, summed, inspection, scale)


def sampling(seen: Look, x: int, y: int) -> Sampling:
    """Where the last DCRB samples for the picture pixel (x, y), which must lie in the look's window.

    Tap k of the 3x3 kernel (row k // 3, column k % 3) of map pixel (i, j) reads the map at (i + k // 3 - 1 + dy, j + k % 3 - 1 + dx)
    (Dai et al. 2017, equation 2); a map position p lies at p * scale + (scale - 1) / 2 of the window.
    """
    window, scale = seen.window, seen.map_scale
    i, j = (y - window.top) // scale, (x - window.left) // scale
    offsets = seen.inspection.offsets[0, :, i, j].reshape(TAPS, 2).double().numpy()
    rows, columns = np.divmod(np.arange(TAPS), 3)
    plain = np.stack([j + columns - 1.0, i + rows - 1.0], 1)
    corner = np.array([window.left, window.top])
    places = [corner + at * scale + (scale - 1) / 2 for at in (plain + offsets[:, ::-1], plain)]
    return Sampling(places[0], places[1], seen.inspection.mask[0, :, i, j].double().numpy())


def influence(model: Model, coded: Tensor, x: int, y: int) -> tuple[Window, Array]:
    """Where Net_R's value at (x, y) comes from, through all blocks: the window looked at, and shares (h, w) that sum to 1.

    The share of an input pixel is the sum over its channels of |d(sum of Net_R's channels at (x, y)) / d input|, the effective
    receptive field of Luo et al. 2016, with every block's offsets and masks held at what they are: what is sampled counts, not
    what decides where to sample. All zero when Net_R does not depend on the input there.
    """
    height, width = coded.shape[2:]
    side = INFLUENCE_SIDE_PX.get(model.spec.width, min(INFLUENCE_SIDE_PX.values()))
    window = _window((x, y), (height, width), side, model.spec.size_multiple)
    part = _cut(coded, window).clone().requires_grad_(True)
    with _fixed_aims(model.network):
        restored = model.network.parts(part)[1]
        value = restored[0, :, y - window.top, x - window.left].sum()
        (gradient,) = torch.autograd.grad(value, part)
    shares = gradient[0].abs().sum(0).double().numpy()
    return window, shares / max(shares.sum(), 1e-30)


def check_point(x: int, y: int, size: tuple[int, int], title: str) -> None:
    """InputError when (x, y) is outside a picture of (height, width)."""
    if not (0 <= x < size[1] and 0 <= y < size[0]):
        raise InputError(
            f"--point {x},{y}: outside {title}; legal: X from 0 to {size[1] - 1}, Y from 0 to {size[0] - 1}."
        )


@contextlib.contextmanager
def _fixed_aims(network: torch.nn.Module) -> Iterator[None]:
    """Within, no gradient flows through what predicts offsets and masks."""
    blocks = [module for module in network.modules() if isinstance(module, DCRB)]
    hooks = [block.aim.register_forward_hook(lambda _module, _inputs, output: output.detach()) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _look_bytes(model: Model, height: int, width: int) -> int:
    kept = (3 * TAPS + model.spec.width) if has_blocks(model) else 0
    return model.activation_bytes(height, width, "fp32") + height * width * (kept + 48)


def _window(centre: tuple[int, int], size: tuple[int, int], side: int, multiple: int) -> Window:
    def along(middle: int, length: int) -> tuple[int, int]:
        start = max(0, min(middle - side // 2, length - side)) // multiple * multiple
        return start, min(side + multiple, length - start) if side < length else length

    (left, width), (top, height) = along(centre[0], size[1]), along(centre[1], size[0])
    return Window(left, top, width, height)


def _cut(coded: Tensor, window: Window) -> Tensor:
    rows = slice(window.top, window.top + window.height)
    return coded[:, :, rows, window.left : window.left + window.width].contiguous()


def _light(model: Model, code: Tensor) -> Array:
    light = decode(code, model.spec.output_encoding) / model.spec.white_level
    return light[0].permute(1, 2, 0).contiguous().numpy()
