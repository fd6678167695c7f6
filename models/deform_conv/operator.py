"""The deformable convolution's one door: checks its arguments, picks a backend, calls it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.deform_conv import fast, reference, triton_launch, triton_ops

BACKENDS = {"reference": reference.forward, "fast": fast.forward, "triton": triton_ops.forward}
"""Backend name -> function. `reference` is torchvision's kernel (any device); `fast` is PyTorch for CPUs; `triton` is CUDA's."""

SERVING = {
    # (device, dtype, training): backend that serves it under backend="auto"
    ("cpu", torch.float32, False): "fast",
    ("cpu", torch.float32, True): "fast",
    ("cpu", torch.bfloat16, False): "fast",
    ("cpu", torch.bfloat16, True): "fast",
    ("cpu", torch.float16, False): "reference",
    ("cpu", torch.float16, True): "reference",
    ("cpu", torch.float64, False): "reference",
    ("cpu", torch.float64, True): "reference",
    ("cuda", torch.float32, False): "triton",
    ("cuda", torch.float32, True): "triton",
    ("cuda", torch.bfloat16, False): "triton",
    ("cuda", torch.bfloat16, True): "triton",
    ("cuda", torch.float16, False): "triton",
    ("cuda", torch.float16, True): "triton",
    ("cuda", torch.float64, False): "reference",
    ("cuda", torch.float64, True): "reference",
}
"""Which backend serves which device, dtype and use; the reference where Triton cannot run (see `choose_backend`). The
reference computes float16 and bfloat16 in float32 (see there)."""


@dataclass(frozen=True)
class Choice:
    """The backend that `deform_conv2d(backend="auto")` uses, and why. Printed, it says both.

    backend: its name; version: of the library that computes, for the name of the machine's arithmetic; reason: for people
    """

    backend: str
    version: str
    reason: str

    def __str__(self) -> str:
        return f"deformable convolution: {self.backend} ({self.reason})"


def choose_backend(device: str | torch.device, dtype: torch.dtype, training: bool) -> Choice:
    """What serves a device ("cpu", "cuda", "cuda:1" or a torch.device). ValueError when the table has no such row."""
    kind = torch.device(device).type
    key = (kind, dtype, training)
    if key not in SERVING:
        served = sorted({f"{d} {str(t).removeprefix('torch.')}" for d, t, _ in SERVING})
        raise ValueError(f"no deformable convolution for {kind} {dtype}; served are: {', '.join(served)}")
    wanted = SERVING[key]
    if wanted == "fast":
        return Choice(wanted, f"torch{torch.__version__}", "PyTorch's own operations, threaded")
    torchvision = f"torchvision{triton_launch.version_of('torchvision')}"
    if wanted == "reference":
        return Choice(wanted, torchvision, f"torchvision's kernel serves {kind} {str(dtype).removeprefix('torch.')}")
    obstacle = triton_launch.why_unusable(device)
    if obstacle is not None:
        return Choice("reference", torchvision, f"torchvision's kernel, because {obstacle}")
    version = triton_launch.version_of("triton")
    return Choice(wanted, f"triton{version}", f"fused kernels, Triton {version}")


def serving_backend(device: str, dtype: torch.dtype, training: bool) -> str:
    """The name in `choose_backend`'s answer; torch.compile takes it for a constant. Asked once for each key."""
    key = (device, dtype, training)
    if key not in _serving:
        _serving[key] = choose_backend(*key).backend
    return _serving[key]


# As torch.compiler.assume_constant_result does, which imports the whole compiler for it: more than a second at every start.
serving_backend._dynamo_marked_constant = True

_serving: dict[tuple[str, torch.dtype, bool], str] = {}


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Modulated deformable convolution (Zhu et al., "Deformable ConvNets v2", CVPR 2019), torchvision's semantics.

    x: (N, C, H, W). offset: (N, 2*G*K, Ho, Wo) in pixels of x; K = kh*kw taps, G offset groups; channel 2*(g*K + k) moves
    tap k of group g down, the next channel moves it right. mask: (N, G*K, Ho, Wo), already activated, or None for 1.
    weight: (O, C, kh, kw). bias: (O,) or None. Returns (N, O, Ho, Wo) in the dtype of x, channels_last or not as the
    backend likes. residual: (N, O, Ho, Wo) or None, added to the result. Samples are bilinear and zero outside x, however far the offset. Offsets should be float32 even when x is
    narrower; positions are computed in float32. A NaN offset gives NaN at the outputs that use it, an infinite one counts as far outside.

    backend: "auto" (the table SERVING), "reference", "fast" (CPU only) or "triton" (CUDA only). ValueError for shapes that do not
    fit, an unknown backend, or a device or dtype that none serves.
    """
    _check(x, offset, mask, weight, residual, stride, padding, dilation)
    if backend == "auto":
        inputs = (x, offset, mask, weight, bias, residual)
        training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
        backend = serving_backend(str(x.device), x.dtype, training)
    if backend not in BACKENDS:
        raise ValueError(f"unknown deformable convolution backend {backend!r}; legal are: auto, {', '.join(BACKENDS)}")
    if backend == "fast" and x.device.type != "cpu":
        raise ValueError(f"the fast backend runs on CPUs only, not on {x.device.type}; use backend='reference'")
    if backend == "triton":
        return triton_ops.forward(x, offset, mask, weight, bias, stride, padding, dilation, residual)
    out = BACKENDS[backend](x, offset, mask, weight, bias, stride, padding, dilation)
    return out if residual is None else out + residual.to(out.dtype)


def _check(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    residual: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
) -> None:
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} and weight {tuple(weight.shape)} must be (N, C, H, W) and (O, C, kh, kw)")
    kernel = weight.shape[2:]
    taps = kernel[0] * kernel[1]
    out = [(x.shape[2 + i] + 2 * padding - dilation * (kernel[i] - 1) - 1) // stride + 1 for i in (0, 1)]
    if min(out) < 1:
        raise ValueError(f"a map of {tuple(x.shape[2:])} is too small for a kernel of {tuple(kernel)}")
    groups = offset.shape[1] // (2 * taps) if offset.ndim == 4 else 0
    if groups < 1 or offset.shape != (x.shape[0], 2 * groups * taps, *out) or x.shape[1] % groups:
        raise ValueError(
            f"offset {tuple(offset.shape)} must be ({x.shape[0]}, 2*G*{taps}, {out[0]}, {out[1]}) with G a divisor of {x.shape[1]}"
        )
    if mask is not None and mask.shape != (x.shape[0], groups * taps, *out):
        raise ValueError(f"mask {tuple(mask.shape)} must be ({x.shape[0]}, {groups * taps}, {out[0]}, {out[1]})")
    if residual is not None and residual.shape != (x.shape[0], weight.shape[0], *out):
        raise ValueError(
            f"residual {tuple(residual.shape)} must be ({x.shape[0]}, {weight.shape[0]}, {out[0]}, {out[1]})"
        )
