"""The Triton kernels in Triton's interpreter, on CPU tensors, against torchvision. Run by test_deform_triton.py in a process of its own:
TRITON_INTERPRET=1 must be set before anything imports Triton. Those marked `long` are left to `make test-long`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor
from triton.runtime import interpreter

from models.deform_conv import deform_conv2d, triton_launch, triton_ops, triton_tune

if triton_launch.version_of("triton").startswith("3.6."):
    # Its interpreter's loops fail with NumPy 2.4, to which an array of one element is no number.
    patch = interpreter._patch_lang_tensor

    def patch_loops(tensor: type, scope: interpreter._LangPatchScope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_loops

KERNELS = ((3, 3), (1, 1), (1, 3), (3, 1), (2, 2), (1, 2))
NAMES = ("x", "offset", "mask", "weight", "bias", "residual")


class Case:
    """A random convolution, from a seed."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32, largest: int = 8) -> None:
        pick = random.Random(seed)
        g = torch.Generator().manual_seed(seed)
        self.groups = pick.choice((1, 1, 1, 1, 2, 3))
        c, o = self.groups * pick.randint(1, 20 // self.groups), pick.randint(1, 20)
        kernel = pick.choice(KERNELS)
        self.where = {
            "stride": pick.choice((1, 1, 2, 3)),
            "dilation": pick.choice((1, 1, 2)),
            "padding": pick.randint(0, 2),
        }
        reach = [self.where["dilation"] * (size - 1) + 1 for size in kernel]
        h, w = (max(pick.randint(1, largest), reach[i] - 2 * self.where["padding"]) for i in (0, 1))
        out = [
            (size + 2 * self.where["padding"] - reach[i]) // self.where["stride"] + 1 for i, size in enumerate((h, w))
        ]
        n, entries = pick.choice((1, 1, 2)), self.groups * kernel[0] * kernel[1]
        spread = pick.choice((0.0, 0.5, 2.0, 20.0, 1e6))
        self.x = torch.randn(n, c, h, w, generator=g).to(dtype)
        self.offset = torch.randn(n, 2 * entries, *out, generator=g) * spread
        self.mask = torch.rand(n, entries, *out, generator=g) if pick.random() < 0.7 else None
        self.weight = (torch.randn(o, c, *kernel, generator=g) / (c * kernel[0] * kernel[1]) ** 0.5).to(dtype)
        self.bias = torch.randn(o, generator=g).to(dtype) if pick.random() < 0.7 else None
        self.residual = torch.randn(n, o, *out, generator=g).to(dtype) if pick.random() < 0.5 else None
        if pick.random() < 0.5:
            self.x = self.x.contiguous(memory_format=torch.channels_last)
            self.offset = self.offset.contiguous(memory_format=torch.channels_last)
        self.pick, self.kernel, self.out, self.spread = pick, kernel, out, spread

    def spoil(self) -> None:
        """Make some offsets infinite, far, on the border, or NaN."""
        flat = self.offset.view(-1) if self.offset.is_contiguous() else self.offset.permute(0, 2, 3, 1).reshape(-1)
        for value in (float("inf"), float("-inf"), 1e30, -3e9, 2.0**31, float("nan")):
            flat[self.pick.randrange(flat.numel())] = value

    def traits(self) -> list[tuple[str, object]]:
        """What may matter to a kernel, by name."""
        absent = [(name, getattr(self, name) is None) for name in ("mask", "bias", "residual")]
        sizes = [("n", self.x.shape[0]), ("blocks", max(self.out) > 8), ("channels", self.x.shape[1] > 16)]
        layout = ("nhwc", self.x.is_contiguous(memory_format=torch.channels_last))
        offset = [("spread", self.spread), ("spoilt", not self.offset.isfinite().all())]
        return [*absent, *sizes, layout, *offset, ("groups", self.groups), ("kernel", self.kernel), *self.where.items()]

    def work(self) -> int:
        """How many taps of how many squares of 8x8 outputs are computed."""
        squares = -(-self.out[0] // 8) * -(-self.out[1] // 8)
        return self.x.shape[0] * squares * self.groups * self.kernel[0] * self.kernel[1]

    def tensors(self) -> list[Tensor | None]:
        return [getattr(self, name) for name in NAMES]

    def ours(self, tensors: list[Tensor | None]) -> Tensor:
        *most, residual = tensors
        return deform_conv2d(*most, residual=residual, backend="triton", **self.where)

    def theirs(self, tensors: list[Tensor | None]) -> Tensor:
        """torchvision in float32. Its CPU kernel crashes at a NaN: sent far outside here, and put into the result."""
        x, offset, mask, weight, bias, residual = (None if t is None else t.float() for t in tensors)
        out = torchvision.ops.deform_conv2d(x, offset.nan_to_num(1e8, 1e8, -1e8), weight, bias, mask=mask, **self.where)
        out = out.masked_fill(offset.isnan().any(dim=1, keepdim=True), torch.nan)
        return out if residual is None else out + residual


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Relative, in the 2-norm. Non-finite values must be at the same places."""
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    ours, theirs = ours.float().nan_to_num(0, 0, 0), theirs.float().nan_to_num(0, 0, 0)
    return ((ours - theirs).norm() / theirs.norm().clamp(min=1e-6)).item()


def some(seeds: Sequence[int], make: Callable[[int], Case], together: int = 1) -> list[object]:
    """The seeds as parameters. All are `long` but a few cheap ones, which have every trait that any has; or every so many together."""
    found, work = {}, {}
    for seed in seeds:
        case = make(seed)
        found[seed], work[seed] = set(itertools.combinations(case.traits(), together)), case.work()
    left, quick = set().union(*found.values()), set()
    while left:
        best = max(seeds, key=lambda seed: len(found[seed] & left) / work[seed])
        quick.add(best)
        left -= found[best]
    return [pytest.param(seed, marks=[] if seed in quick else pytest.mark.long) for seed in seeds]


def forward_case(seed: int) -> Case:
    case = Case(seed, largest=17 if seed % 20 == 0 else 7)  # squares are 8x8: most fit into one, which is quick
    if seed % 4 == 0:
        case.spoil()
    return case


@pytest.mark.parametrize("seed", some(range(200), forward_case, together=2))
def test_forward_equals_torchvision(seed: int) -> None:
    case = forward_case(seed)
    out = case.ours(case.tensors())
    assert out.dtype == torch.float32 and out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, case.theirs(case.tensors()), rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", some(range(300, 310), lambda seed: Case(seed, largest=7)))
def test_narrow_operands(seed: int, dtype: torch.dtype) -> None:
    case = Case(seed, dtype, largest=7)
    case.spoil()
    out = case.ours(case.tensors())
    assert out.dtype == dtype
    assert difference(out, case.theirs(case.tensors())) < (8e-3 if dtype == torch.bfloat16 else 1e-3)


def gradients(case: Case, narrow: bool) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, ours, torchvision's) of every tensor that is there. narrow: torchvision gets the rounded values in float32."""
    results = []
    for function in (case.ours, case.theirs):
        tensors = [None if t is None else t.detach().clone() for t in case.tensors()]
        if function == case.theirs and narrow:
            tensors = [None if t is None else t.float() for t in tensors]
        tensors = [None if t is None else t.requires_grad_() for t in tensors]
        out = function(tensors)
        (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append([None if t is None else t.grad for t in tensors])
    for name, ours, theirs in zip(NAMES, *results, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            yield name, ours, theirs


@pytest.mark.parametrize("seed", some(range(400, 418), lambda seed: Case(seed, largest=6)))
def test_gradients_equal_torchvisions(seed: int) -> None:
    case = Case(seed, largest=6)
    for name, ours, theirs in gradients(case, narrow=False):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", [500, 501])
def test_gradients_of_narrow_operands(seed: int, dtype: torch.dtype) -> None:
    case = Case(seed, dtype, largest=6)
    for name, ours, theirs in gradients(case, narrow=True):
        assert ours.dtype == getattr(case, name).dtype
        assert difference(ours, theirs) < (1.2e-2 if dtype == torch.bfloat16 else 2e-3), name


def plain(c: int = 4, o: int = 5, h: int = 4, w: int = 5, kernel: int = 3, n: int = 1) -> list[Tensor]:
    """x, offset (zero), mask, weight, bias."""
    g = torch.Generator().manual_seed(7)
    x, weight = torch.randn(n, c, h, w, generator=g), torch.randn(o, c, kernel, kernel, generator=g) / 5
    out = h + 3 - kernel, w + 3 - kernel
    offset, mask = torch.zeros(n, 2 * kernel**2, *out), torch.rand(n, kernel**2, *out, generator=g)
    return [x, offset, mask, weight, torch.randn(o, generator=g)]


def test_at_zero_offsets_border_taps_have_torchvisions_gradient() -> None:
    # They are sampled at exactly -1, where the result has a kink.
    grads = []
    for function in (
        lambda *a: deform_conv2d(*a, backend="triton"),
        lambda x, offset, mask, weight, bias: torchvision.ops.deform_conv2d(
            x, offset, weight, bias, mask=mask, padding=1
        ),
    ):
        tensors = [t.requires_grad_() for t in plain()]
        function(*tensors).square().sum().backward()
        grads.append([t.grad for t in tensors])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_sampled_does_not_leak(poison: float) -> None:
    x, _, mask, weight, bias = plain(h=6, w=7, kernel=1)
    row, column = torch.meshgrid(
        torch.arange(-1, 7.0), torch.arange(-1, 8.0), indexing="ij"
    )  # of the 8x9 outputs' taps
    # Each output samples one of: the middle of the first cell, far outside, exactly on the border outside of the map.
    targets = torch.tensor([[0.5, 0.5], [-1e9, 3.0], [-1.0, 2.0], [3.0, 7.0], [float("inf"), 0.0]])
    target = targets[torch.arange(8 * 9) % 5].view(8, 9, 2)
    offset = torch.stack([target[..., 0] - row, target[..., 1] - column]).unsqueeze(0)
    x[:, :, 2:, :] = poison
    x[:, :, :, 2:] = poison
    out = deform_conv2d(x, offset, mask, weight, bias, backend="triton")
    sampled = weight[:, :, 0, 0] @ x[0, :, :2, :2].mean(dim=(1, 2))
    inside = (torch.arange(8 * 9) % 5 == 0).view(8, 9)
    expected = torch.where(inside, mask[0] * sampled[:, None, None], 0) + bias[:, None, None]
    torch.testing.assert_close(out[0], expected, rtol=1e-4, atol=1e-5)


def test_bits_depend_neither_on_the_batch_nor_on_the_layout() -> None:
    args = plain(n=3, c=6, o=9)
    args[1] = torch.randn(args[1].shape, generator=torch.Generator().manual_seed(1))
    for dtype in (torch.float32, torch.bfloat16):
        x, offset, mask, weight, bias = (t if i in (1, 2) else t.to(dtype) for i, t in enumerate(args))
        together = deform_conv2d(x, offset, mask, weight, bias, backend="triton")
        nhwc = x.contiguous(memory_format=torch.channels_last)
        for i in range(3):
            one = slice(i, i + 1)
            alone = deform_conv2d(nhwc[one], offset[one], mask[one], weight, bias, backend="triton")
            assert torch.equal(alone, together[one])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_pytorch_accepts_the_operators(masked: bool) -> None:
    x, offset, mask, weight, bias = plain(kernel=1, h=3, w=3)
    mask = mask if masked else None
    out = torch.randn(1, 5, 5, 5)
    trained = [None if t is None else t.requires_grad_() for t in (x, offset + 0.3, mask, weight, bias, out.clone())]
    torch.library.opcheck(torch.ops.sunvisor.deform_conv.default, (*trained, 1, 1, 1))
    still = [None if t is None else t.detach() for t in (out, *trained[:4])]
    for name in ("map_gradient", "aim_gradient", "weight_gradient"):
        torch.library.opcheck(getattr(torch.ops.sunvisor, f"deform_conv_{name}").default, (*still, 1, 1, 1))


class Layer(torch.nn.Module):
    def forward(self, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return deform_conv2d(x, offset.tanh(), mask, weight, bias, backend="triton").relu()


def test_compile_sees_through() -> None:
    args = [t.requires_grad_() for t in plain(kernel=1)]
    whole = torch.compile(Layer(), fullgraph=True, backend="aot_eager")(*args)
    torch.testing.assert_close(whole, Layer()(*args))
    for ours, theirs in zip(*(torch.autograd.grad(f.sum(), args) for f in (whole, Layer()(*args))), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_export_keeps_the_operator_for_any_size() -> None:
    height, width = torch.export.Dim("height", min=2, max=64), torch.export.Dim("width", min=2, max=64)
    free = {2: height, 3: width}
    args = tuple(plain())
    program = torch.export.export(Layer(), args, dynamic_shapes=(free, free, free, None, None))
    assert "sunvisor.deform_conv" in str(program.graph)
    other = tuple(plain(h=7, w=3))
    torch.testing.assert_close(program.module()(*other), Layer()(*other))


def test_no_pictures_give_none() -> None:
    x, offset, mask, weight, bias = plain()
    args = [t[:0].requires_grad_() for t in (x, offset, mask)] + [weight.requires_grad_(), bias]
    out = deform_conv2d(*args, backend="triton")
    assert out.shape == (0, 5, 4, 5)
    out.sum().backward()
    assert weight.grad.abs().max() == 0


def test_deterministic_training_is_refused() -> None:
    args = [t.requires_grad_() for t in plain(kernel=1)]
    out = deform_conv2d(*args, backend="triton")
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="summed in any order"):
            out.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_it_cannot_compute_is_refused() -> None:
    args = plain()
    with pytest.raises(ValueError, match="float32, bfloat16 and float16"):
        deform_conv2d(*(t.double() for t in args), backend="triton")
    huge = torch.zeros(1).expand(1, 128, 1 << 12, 1 << 12)
    with pytest.raises(ValueError, match="cut it into tiles"):
        triton_ops.forward(huge, *args[1:], 1, 1, 1)


def test_weight_gradient_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(601, largest=20)
    case.x, case.offset, case.mask, case.weight, case.bias = plain(h=9, w=17, kernel=1)
    case.residual, case.where = None, {"stride": 1, "padding": 1, "dilation": 1}
    for programs in (1, 3, 4096):
        monkeypatch.setattr(triton_launch, "WEIGHT_PROGRAMS", programs)
        for _, ours, theirs in gradients(case, narrow=False):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_tuning_reports_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    pretended = iter((3.0, 2.0) * 4)

    def timed(work: Callable[[], object]) -> float:
        work()
        return next(pretended)

    monkeypatch.setattr(triton_tune, "candidates", lambda blocks: [blocks, replace(blocks, rows=4, columns=4)])
    lines = list(triton_tune.tune(torch.float32, 4, timed, rows=3, columns=3, device="cpu"))
    assert len(lines) == 4
    assert lines[0].startswith("forward, float32, 4: table 3.0 us, fastest 2.0 us with Blocks(rows=4, columns=4")
