"""Deformable convolution: the fast backend against torchvision's kernel, which is the oracle."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.deform_conv import BACKENDS, SERVING, deform_conv2d, fast, serving_backend

CPU_BACKENDS = ("reference", "fast")


def make(
    n: int,
    c: int,
    o: int,
    h: int,
    w: int,
    groups: int = 1,
    stride: int = 1,
    dilation: int = 1,
    spread: float = 2.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    rows, columns = ((size + 2 - 2 * dilation - 1) // stride + 1 for size in (h, w))
    x = torch.randn(n, c, h, w, generator=g)
    offset = torch.randn(n, 18 * groups, rows, columns, generator=g) * spread
    mask = torch.rand(n, 9 * groups, rows, columns, generator=g)
    weight = torch.randn(o, c, 3, 3, generator=g) / (3 * c**0.5)
    return x, offset, mask, weight, torch.randn(o, generator=g)


def oracle(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, **where: int) -> Tensor:
    where = {"stride": 1, "padding": 1, "dilation": 1} | where
    return torchvision.ops.deform_conv2d(x, offset, weight, bias, mask=mask, **where)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3),
    h=st.integers(3, 21),
    w=st.integers(3, 23),
    groups=st.sampled_from((1, 2, 4)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    spread=st.sampled_from((0.0, 0.5, 3.0, 40.0, 1e6)),
    seed=st.integers(0, 99),
)
def test_fast_equals_torchvision(
    n: int, h: int, w: int, groups: int, stride: int, dilation: int, spread: float, seed: int
) -> None:
    if min(h, w) + 2 < 2 * dilation + 1:
        return
    args = make(n, 8, 5, h, w, groups, stride, dilation, spread, seed)
    with torch.no_grad():
        ours = deform_conv2d(*args, stride=stride, dilation=dilation, backend="fast")
    torch.testing.assert_close(ours, oracle(*args, stride=stride, dilation=dilation), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("pixels", [1, 50, 10**9])
def test_tiles_leave_no_trace(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "TILE_PIXELS", pixels)
    args = make(2, 16, 16, 13, 17)
    with torch.no_grad():
        torch.testing.assert_close(deform_conv2d(*args, backend="fast"), oracle(*args), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("spread", [1.5, 30.0])
def test_gradients_equal_torchvisions(groups: int, spread: float) -> None:
    results = []
    for function in (lambda *a: deform_conv2d(*a, backend="fast"), oracle):
        args = [t.requires_grad_() for t in make(2, 8, 6, 9, 11, groups, spread=spread)]
        out = function(*args)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append((out, *(a.grad for a in args)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)


def test_zero_offsets_are_a_plain_convolution() -> None:
    x, offset, _, weight, bias = make(1, 8, 8, 10, 12, spread=0.0)
    plain = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    for backend in CPU_BACKENDS:
        with torch.no_grad():
            ours = deform_conv2d(x, offset, None, weight, bias, backend=backend)
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_without_bias_and_with_other_kernels() -> None:
    g = torch.Generator().manual_seed(5)
    x, weight = torch.randn(1, 4, 9, 9, generator=g), torch.randn(3, 4, 1, 5, generator=g)
    offset, mask = torch.randn(1, 10, 11, 7, generator=g), torch.rand(1, 5, 11, 7, generator=g)
    with torch.no_grad():
        ours = deform_conv2d(x, offset, mask, weight, None, backend="fast")
    torch.testing.assert_close(ours, oracle(x, offset, mask, weight, None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_operands_keep_float32_positions(backend: str, dtype: torch.dtype) -> None:
    # At column 600 neither narrow type can hold a fraction: positions rounded to it would be far off.
    x, offset, mask, weight, bias = make(1, 16, 8, 4, 640, spread=0.3)
    x = torch.linspace(0, 300, 640).sin().expand(1, 16, 4, 640)
    exact = oracle(x, offset, mask, weight, bias)
    with torch.no_grad():
        ours = deform_conv2d(x.to(dtype), offset, mask, weight.to(dtype), bias.to(dtype), backend=backend)
    assert ours.dtype == dtype
    assert (ours.float() - exact).norm() / exact.norm() < 0.01


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_residual_is_added(backend: str) -> None:
    args = make(1, 8, 5, 6, 7)
    residual = torch.randn(1, 5, 6, 7)
    whole = deform_conv2d(*args, residual=residual, backend=backend)
    assert torch.equal(whole, deform_conv2d(*args, backend=backend) + residual)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_nan_offset_gives_nan_there_and_nowhere_else(backend: str) -> None:
    x, offset, mask, weight, bias = make(1, 8, 8, 9, 9)
    offset[0, 6, 4, 5] = float("nan")
    offset[0, 0, 0, 0] = float("inf")
    with torch.no_grad():
        bad = deform_conv2d(x, offset, mask, weight, bias, backend=backend).isnan()
    assert bad[0, :, 4, 5].all()
    assert bad.sum() == 8


def test_bits_depend_neither_on_the_batch_nor_on_threads() -> None:
    args = make(3, 16, 16, 37, 53)
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            for dtype in (torch.float32, torch.bfloat16):
                x, weight, bias = args[0].to(dtype), args[3].to(dtype), args[4].to(dtype)
                results = []
                for threads in (1, 2, 3):
                    torch.set_num_threads(threads)
                    results.append(deform_conv2d(x, args[1], args[2], weight, bias))
                    single = [
                        deform_conv2d(x[i : i + 1], args[1][i : i + 1], args[2][i : i + 1], weight, bias)
                        for i in range(3)
                    ]
                    results.append(torch.cat(single))
                assert all(torch.equal(results[0], other) for other in results[1:])
    finally:
        torch.set_num_threads(before)


def test_the_table_names_real_backends_and_says_what_it_does_not_serve() -> None:
    assert set(SERVING.values()) <= set(BACKENDS)
    assert serving_backend("cpu", torch.bfloat16, training=False) == "fast"
    assert serving_backend("cpu", torch.float16, training=True) == "reference"
    with pytest.raises(ValueError, match="served are: cpu bfloat16"):
        serving_backend("cpu", torch.int8, training=False)


def test_wrong_arguments_are_named() -> None:
    x, offset, mask, weight, bias = make(1, 8, 8, 6, 6)
    with pytest.raises(ValueError, match="legal are: auto, reference, fast, triton"):
        deform_conv2d(x, offset, mask, weight, bias, backend="cudnn")
    with pytest.raises(ValueError, match="offset"):
        deform_conv2d(x, offset[:, :17], mask, weight, bias)
    with pytest.raises(ValueError, match="mask"):
        deform_conv2d(x, offset, mask[:, :8], weight, bias)
    with pytest.raises(ValueError, match="residual"):
        deform_conv2d(x, offset, mask, weight, bias, residual=x[:, :, :5])
    with pytest.raises(ValueError, match="weight"):
        deform_conv2d(x[:, :4], offset, mask, weight, bias)
