"""A network with all that is needed to run it: coded SDR signal in, linear light out."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models import registry
from models.convolution import set_precision
from models.encodings import decode

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision name -> dtype of the network's layers. Heads, positions and sums are float32 in all of them."""

DEVICE_PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}
"""Device type -> precisions it runs (CPUs emulate fp16 convolutions, slowly, where they have them at all)."""

BF16_MIN_WIDTH = 32
"""On a CPU bfloat16 pays from this width on: at width 16 the deformable convolutions' index arithmetic dominates."""


IMAGE_BYTES_PER_PIXEL = 64
"""Input, summands, output and the steps between them: three float32 channels each."""

FIXED_BYTES = 32 << 20
"""Buffers that do not grow with the frame (tiles of the deformable convolution, oneDNN's scratch pads)."""


@dataclass(frozen=True)
class ModelSpec:
    """What a checkpoint's metadata says; enough to run it.

    architecture, width, sft: what `registry.build` needs
    input_encoding: transfer of the coded signal that goes in; output_encoding: what the network's output means (models.encodings)
    white_level: linear output (after decoding) that equals SDR white; `Model.restore` divides by it
    trained: False for a fresh or neutral network, which restores no highlights
    training_data, metrics, licence: for people; metrics are name -> number
    name, sha256: of the checkpoint file (without suffix; hex digest of its bytes); empty before there is one
    """

    architecture: str
    width: int
    sft: bool
    input_encoding: str
    output_encoding: str
    white_level: float
    trained: bool
    training_data: str
    licence: str
    metrics: dict[str, float] = field(default_factory=dict)
    name: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if not self.white_level > 0:
            raise ValueError(f"white_level is {self.white_level}; it must be above 0")

    @property
    def halo_px(self) -> int:
        """Context that a tile needs on each side, in pixels; a multiple of `size_multiple`."""
        return registry.architecture(self.architecture).halo_px

    @property
    def size_multiple(self) -> int:
        """Tiles must start at multiples of this many pixels. Sizes are free."""
        return registry.architecture(self.architecture).size_multiple

    @property
    def restores_highlights(self) -> bool:
        """Whether the output holds more than the SDR picture did."""
        return self.trained and registry.architecture(self.architecture).restores


class Model:
    """A network on a device. `spec` says what it is; `network` is the float32 original (for training and figures)."""

    def __init__(self, network: nn.Module, spec: ModelSpec, device: str | torch.device = "cpu") -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.network = network.to(self.device).to(memory_format=torch.channels_last).eval()
        self._networks = {"fp32": self.network}

    def restore(self, coded: Tensor, precision: str) -> Tensor:
        """(N, 3, H, W) float32 coded signal in [0, 1], on the model's device -> (N, 3, H, W) float32 linear light, SDR white = 1.0.

        Any N, H, W >= 1. Non-finite values are passed on, not hidden. On a CPU frames are run one at a time: batches
        gain nothing there, and the bits of a frame must not depend on its neighbours.
        ValueError for a precision that the device does not run.
        """
        network = self._network(precision)
        coded = coded.contiguous()  # the order of elements in memory must not decide how they are rounded
        with torch.no_grad():
            if self.device.type == "cpu" and coded.shape[0] != 1:
                code = torch.cat([network(frame) for frame in coded.split(1)]) if coded.shape[0] else coded.float()
            else:
                code = network(coded)
            light = decode(code, self.spec.output_encoding)
            return light if self.spec.white_level == 1.0 else light / self.spec.white_level

    def parts(self, coded: Tensor, precision: str = "fp32") -> tuple[Tensor, Tensor]:
        """The two summands, Net_T(I) and Net_R(I), in the *output encoding*: (N, 3, H, W) float32 each. For figures."""
        with torch.no_grad():
            return self._network(precision).parts(coded)

    def best_precision(self) -> str:
        """The precision that pays on this device for this width, as `best_precision` says."""
        return best_precision(self.device, self.spec.width)

    def activation_bytes(self, height: int, width: int, precision: str) -> int:
        """Peak working memory in bytes of `restore` for one frame of that size on a CPU.

        An upper fit to measured resident memory (270x480 and 540x960, widths 16 to 64, both precisions): the truth is
        between half of it and all of it. Weights, and frames of a batch on CUDA beyond the first, come on top.
        """
        entry = registry.architecture(self.spec.architecture)
        itemsize = PRECISIONS[precision].itemsize
        per_pixel = IMAGE_BYTES_PER_PIXEL + entry.maps_alive[self.spec.sft] * self.spec.width * itemsize
        return FIXED_BYTES + height * width * per_pixel

    def _network(self, precision: str) -> nn.Module:
        legal = DEVICE_PRECISIONS.get(self.device.type, ("fp32",))
        if precision not in legal:
            raise ValueError(f"precision {precision!r} on {self.device.type}; legal are: {', '.join(legal)}")
        if precision not in self._networks:
            self._networks[precision] = set_precision(copy.deepcopy(self.network), PRECISIONS[precision]).to(
                memory_format=torch.channels_last
            )
        return self._networks[precision]


def best_precision(device: str | torch.device, width: int) -> str:
    """ "fp32" or "bf16": what is fastest without visible loss.

    On a CPU bf16 needs instructions for it (AVX512_BF16 or AMX) and a width that gains by them; otherwise it is slower than
    float32. On CUDA bf16 from compute capability 8.0 on.
    """
    if width == 0:
        return "fp32"
    device = torch.device(device)
    if device.type == "cpu":
        instructions = torch.cpu.get_capabilities()
        fast = bool(instructions.get("avx512_bf16") or instructions.get("amx_bf16"))
        return "bf16" if fast and width >= BF16_MIN_WIDTH else "fp32"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return "bf16"
    return "fp32"
