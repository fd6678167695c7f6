"""The deformable convolution's one door: checks its arguments, picks a backend, calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from models.deform_conv import fast, reference

BACKENDS = {"reference": reference.forward, "fast": fast.forward}
"""Backend name -> function. `reference` is torchvision's kernel (any device); `fast` is PyTorch for CPUs."""

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
    ("cuda", torch.float32, False): "reference",
    ("cuda", torch.float32, True): "reference",
    ("cuda", torch.bfloat16, False): "reference",
    ("cuda", torch.bfloat16, True): "reference",
    ("cuda", torch.float16, False): "reference",
    ("cuda", torch.float16, True): "reference",
    ("cuda", torch.float64, False): "reference",
    ("cuda", torch.float64, True): "reference",
}
"""Which backend serves which device, dtype and use. The reference computes float16 and bfloat16 in float32 (see there)."""


def serving_backend(device: str, dtype: torch.dtype, training: bool) -> str:
    """The name of the backend that `deform_conv2d(backend="auto")` uses. ValueError when the table has no such row."""
    key = (device, dtype, training)
    if key not in SERVING:
        served = sorted({f"{d} {str(t).removeprefix('torch.')}" for d, t, _ in SERVING})
        raise ValueError(f"no deformable convolution for {device} {dtype}; served are: {', '.join(served)}")
    return SERVING[key]


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
    backend: str = "auto",
) -> Tensor:
    """Modulated deformable convolution (Zhu et al., "Deformable ConvNets v2", CVPR 2019), torchvision's semantics.

    x: (N, C, H, W). offset: (N, 2*G*K, Ho, Wo) in pixels of x; K = kh*kw taps, G offset groups; channel 2*(g*K + k) moves
    tap k of group g down, the next channel moves it right. mask: (N, G*K, Ho, Wo), already activated, or None for 1.
    weight: (O, C, kh, kw). bias: (O,) or None. Returns (N, O, Ho, Wo) in the dtype of x, channels_last or not as the
    backend likes. Samples are bilinear and zero outside x, however far the offset. Offsets should be float32 even when x is
    narrower; positions are computed in float32. A NaN offset gives NaN at the outputs that use it, an infinite one counts as far outside.

    backend: "auto" (the table SERVING), "reference" or "fast" (CPU only). ValueError for shapes that do not fit, an unknown
    backend, or a device or dtype that none serves.
    """
    _check(x, offset, mask, weight, stride, padding, dilation)
    if backend == "auto":
        inputs = (x, offset, mask, weight, bias)
        training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
        backend = serving_backend(x.device.type, x.dtype, training)
    if backend not in BACKENDS:
        raise ValueError(f"unknown deformable convolution backend {backend!r}; legal are: auto, {', '.join(BACKENDS)}")
    if backend == "fast" and x.device.type != "cpu":
        raise ValueError(f"the fast backend runs on CPUs only, not on {x.device.type}; use backend='reference'")
    return BACKENDS[backend](x, offset, mask, weight, bias, stride, padding, dilation)


def _check(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, stride: int, padding: int, dilation: int
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
