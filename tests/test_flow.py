"""Flow: known shifts are found, exposure is measured, saturated areas move with their surroundings, small maps go up and down."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline import flow
from pipeline.stages.temporal import METHODS

HEIGHT, WIDTH = 64, 96
Array = np.ndarray


def scene(shift: tuple[int, int] = (0, 0), seed: int = 3) -> Array:
    """Light (HEIGHT,WIDTH,3) of a textured scene, well exposed, seen (x, y) pixels further right and down."""
    noise = np.random.default_rng(seed).random((HEIGHT + 40, WIDTH + 40, 3), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    smooth = 0.1 + 0.5 * (smooth - smooth.min()) / np.ptp(smooth)
    x, y = 20 - shift[0], 20 - shift[1]
    return np.ascontiguousarray(smooth[y : y + HEIGHT, x : x + WIDTH])


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> flow.Method:
    """Each method of flow, on the CPU."""
    return METHODS[request.param]


def found(method: flow.Method, a: flow.Picture, b: flow.Picture) -> SimpleNamespace:
    """The motion from a to b, as NumPy arrays."""
    motion = method.find_motions(a, [b])(0)
    return SimpleNamespace(**{one.name: getattr(motion, one.name).numpy() for one in fields(motion)})


def picture(light: Array) -> flow.Picture:
    """As the stage makes it of a frame at full size."""
    frame = torch.from_numpy(light).permute(2, 0, 1)
    return flow.make_picture(torch.cat([frame.clamp(0, 1), frame.amax(dim=0)[None]]).contiguous())


def test_a_known_shift_and_exposure_are_found(method: flow.Method) -> None:
    motion = found(method, picture(scene()), picture(scene((3, -2)) * np.float32(2**0.4)))
    assert motion.known
    middle = (slice(12, -12), slice(12, -12))
    assert np.median(np.abs(motion.x[middle] - np.arange(WIDTH)[12:-12] - 3)) < 0.2
    assert np.median(np.abs(motion.y[middle] - np.arange(HEIGHT)[12:-12, None] + 2)) < 0.2
    assert motion.stops == pytest.approx(0.4, abs=0.02)
    assert np.median(motion.difference[middle]) < 0.01


def test_points_that_leave_the_picture_are_not_inside(method: flow.Method) -> None:
    motion = found(method, picture(scene()), picture(scene((6, 0))))
    assert motion.known
    assert not motion.inside[12:-12, -3:].any()
    assert motion.inside[12:-12, 12:-12].mean() > 0.95


def test_a_saturated_area_moves_with_what_is_around_it(method: flow.Method) -> None:
    pair = [scene(), scene((4, 0))]
    for light, left in zip(pair, (30, 34), strict=True):
        light[18:46, left : left + 36] = 1.0
    motion = found(method, *(picture(light) for light in pair))
    assert motion.known
    inner = (slice(24, 40), slice(38, 58))
    assert np.abs(motion.x[inner] - np.arange(WIDTH)[38:58] - 4).mean() < 1.0
    assert np.abs(motion.y[inner] - np.arange(HEIGHT)[24:40, None]).mean() < 1.0


@pytest.mark.parametrize("light", [0.0, 1.0], ids=["black", "white"])
def test_pictures_with_nothing_well_exposed_have_no_motion(light: float, method: flow.Method) -> None:
    empty = picture(np.full((HEIGHT, WIDTH, 3), light, np.float32))
    assert not found(method, empty, picture(scene())).known
    assert not found(method, picture(scene()), empty).known


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 70), (40, 8)], ids=str)
def test_small_pictures_have_motion_too(size: tuple[int, int], method: flow.Method) -> None:
    light = scene()[: size[0], : size[1]]
    motion = found(method, picture(light), picture(light))
    assert motion.known
    assert motion.x.shape == motion.y.shape == motion.inside.shape == size
    assert motion.stops == 0.0


def test_reading_is_bilinear_and_repeats_the_edge(method: flow.Method) -> None:
    values = np.random.default_rng(1).random((7, 9), np.float32)
    x, y = np.meshgrid(np.arange(8, dtype=np.float32) + 0.5, np.arange(6, dtype=np.float32) + 0.25)
    expected = 0.75 * (values[:-1, :-1] + values[:-1, 1:]) / 2 + 0.25 * (values[1:, :-1] + values[1:, 1:]) / 2
    x, y, expected = (
        np.pad(one, ((0, 1), (0, 1)), constant_values=edge) for one, edge in ((x, -5), (y, -5), (expected, 0))
    )
    expected[:, -1] = expected[-1] = values[0, 0]
    nothing = torch.zeros(7, 9)
    motion = flow.Motion(*(torch.from_numpy(one) for one in (x, y)), *[nothing] * 6)
    np.testing.assert_allclose(method.warp(torch.from_numpy(values)[None], motion)[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("side_px", [3, 5])
def test_means_around_are_those_of_the_repeated_edge(method: flow.Method, side_px: int) -> None:
    maps = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(4))
    half = side_px // 2
    padded = np.pad(maps.numpy(), ((0, 0), (half, half), (half, half)), mode="edge")
    expected = np.lib.stride_tricks.sliding_window_view(padded, (side_px, side_px), (1, 2)).mean((-2, -1))
    np.testing.assert_allclose(method.mean_around(maps, side_px).numpy(), expected, atol=1e-6)


class Operations(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        self.names.append(func.overloadpacket._qualified_op_name)
        return func(*args, **(kwargs or {}))


WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::index", "aten::is_nonzero"}
"""Operations for whose answer the host waits: numbers taken out of tensors, and results whose size depends on values."""
NOT_REPRODUCIBLE = {
    "aten::scatter_add",
    "aten::index_add",
    "aten::index_put",
    "aten::histc",
    "aten::cumsum",
    "aten::median",
}


def test_tensors_are_never_asked_for_a_number_and_never_added_with_atomics() -> None:
    with Operations() as seen:
        METHODS["tensor"].find_motions(picture(scene()), [picture(scene((1, 0))), picture(scene((2, 1)))])
    assert "aten::grid_sampler_2d" in seen.names
    assert not WAITING & set(seen.names)
    assert not {name.rstrip("_") for name in seen.names} & NOT_REPRODUCIBLE


def test_the_device_chooses_the_method_and_says_why() -> None:
    assert str(flow.choose_method(torch.device("cpu"))).startswith("optical flow: dis (")
    choice = flow.choose_method(torch.device("cuda"))
    assert (choice.taken, "cuda" in choice.reason) == ("tensor", True)
    assert {"dis", "tensor"} == METHODS.keys()


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(270, 480, 1), (540, 960, 2), (1080, 1920, 4), (1920, 1080, 4)]
)
def test_reduction_brings_the_longer_side_to_480_pixels(height: int, width: int, factor: int) -> None:
    assert flow.reduction(height, width) == factor


@pytest.mark.parametrize("size", [(64, 96), (63, 94), (5, 3)], ids=str)
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_reducing_takes_means_of_blocks(size: tuple[int, int], factor: int) -> None:
    maps = torch.rand(2, *size, generator=torch.Generator().manual_seed(5))
    padded = np.pad(maps.numpy(), ((0, 0), (0, -size[0] % factor), (0, -size[1] % factor)), mode="edge")
    rows, columns = padded.shape[1] // factor, padded.shape[2] // factor
    expected = padded.reshape(2, rows, factor, columns, factor).mean((2, 4))
    np.testing.assert_allclose(flow.reduce(maps, factor).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_enlarging_is_opencvs_linear_resize(factor: int) -> None:
    small = np.random.default_rng(2).random((16, 24), np.float32)
    expected = cv2.resize(small, (24 * factor, 16 * factor), interpolation=cv2.INTER_LINEAR)
    found = flow.enlarge(torch.from_numpy(small), factor, 16 * factor, 24 * factor).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_enlarging_covers_sizes_that_the_factor_does_not_divide() -> None:
    assert flow.enlarge(torch.full((4, 6), 0.3), 4, 14, 23).shape == (14, 23)
    assert torch.equal(flow.enlarge(torch.full((1, 1), 0.3), 4, 3, 2), torch.full((3, 2), 0.3))


def test_stops_are_powers_of_two() -> None:
    light = np.array([0.05, 0.25, 1.0, 4.0, 60.0], np.float32)
    np.testing.assert_allclose(flow.stops(torch.from_numpy(light)).numpy(), np.log2(light), atol=5e-3)
