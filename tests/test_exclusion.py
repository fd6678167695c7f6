"""What belongs to the car: the bonnet is found where there is one, and what is excluded keeps the picture that was recorded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.exclusion import by_hand, draw, find_bonnet
from pipeline.index import build_index
from pipeline.overlay_pictures import read_keyframes
from pipeline.probe import probe, read_color
from pipeline.stages.exclude import SOFT_PX, Exclude, kept_share
from pipeline.stages.guarded import Guarded
from pipeline.stages.temporal import Temporal
from tests.clips import REAL_FRAMES
from tests.test_overlay import COUNT, HEIGHT, WIDTH, scene

Array = np.ndarray
WITH_BONNET = {"highway_concrete_1280x720.mp4", "highway_shadows_1280x720.mp4"}


def bonnet_pixels() -> Array:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (WIDTH // 2, HEIGHT + 5), (WIDTH, 28), 0, 180, 360, 1, -1)
    return mask > 0


def drive(number: int, step: int = 9) -> Array:
    """The scene above a silver bonnet that mirrors it faintly."""
    picture = scene(number, step)
    mirrored = picture[::-1] // 12 + np.array([180, 176, 185], np.uint8)
    return np.where(bonnet_pixels()[..., None], mirrored, picture).astype(np.uint8)


def inside(polygon: tuple[int, ...]) -> Array:
    return kept_share((polygon,), HEIGHT, WIDTH)[0, 0].numpy() == 1


def test_a_drawn_bonnet_is_found() -> None:
    polygon = find_bonnet([drive(n) for n in range(COUNT)])
    assert polygon is not None
    found, true = inside(polygon), bonnet_pixels()
    assert (found & true).sum() / (found | true).sum() > 0.85


@pytest.mark.parametrize("step", [9, 40])
def test_a_drive_without_a_bonnet_shows_none(step: int) -> None:
    assert find_bonnet([scene(n, step) for n in range(COUNT)]) is None


def test_a_camera_that_stands_still_shows_none() -> None:
    rng = np.random.default_rng(1)
    still = [(drive(0) + rng.normal(0, 2, (HEIGHT, WIDTH, 3))).clip(0, 255).astype(np.uint8) for _ in range(COUNT)]
    assert find_bonnet(still) is None


@settings(max_examples=3, deadline=None)
@given(st.permutations(range(COUNT)))
def test_the_order_of_the_pictures_does_not_matter(order: list[int]) -> None:
    frames = [drive(n) for n in range(COUNT)]
    assert find_bonnet([frames[n] for n in order]) == find_bonnet(frames)


@pytest.mark.parametrize("name", sorted(REAL_FRAMES))
def test_real_clips(real_clips: Path, name: str) -> None:
    """Two of them show a bonnet, in the lowest twelfth of the picture."""
    clip = real_clips / name
    stream = probe(clip).video_streams[0]
    color, _ = read_color(stream)
    index = build_index(clip, stream.index)
    found = find_bonnet(read_keyframes(clip, stream.index, index, stream.layout, color))
    assert (found is not None) == (name in WITH_BONNET)
    if found:
        assert min(found[1::2]) > stream.height * 11 / 12


def test_boxes_and_polygons_by_hand() -> None:
    box, triangle = by_hand([[10, 20, 30, 12]], [[0, 0, 9, 0, 0, 9]], WIDTH, HEIGHT)
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[20:32, 10:40] = True
    assert (inside(box) == wanted).all()
    assert inside(triangle)[:10, :10].sum() == 55 and inside(triangle).sum() == 55


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [-1, 0, 5, 5], [0, 0, WIDTH + 1, 5], [1, 2, 3]])
def test_impossible_boxes_are_refused(box: list[int]) -> None:
    with pytest.raises(InputError, match=r"exclude\.boxes: .*legal is"):
        by_hand([box], [], WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "polygon", [[0, 0, 5, 5], [0, 0, 5, 5, 3], [0, 0, WIDTH, 5, 3, 3], [0, 0, 5, HEIGHT, 3, 3], []]
)
def test_impossible_polygons_are_refused(polygon: list[int]) -> None:
    with pytest.raises(InputError, match=r"exclude\.polygons: .*legal is"):
        by_hand([], [polygon], WIDTH, HEIGHT)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 40), st.integers(0, 30), st.integers(1, 20), st.integers(1, 15), st.integers(0, 99))
def test_inside_is_recorded_and_far_away_restored_bit_for_bit(x: int, y: int, w: int, h: int, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    recorded, restored = (torch.rand(2, 3, 48, 64, generator=chance) * scale for scale in (1, 5))
    polygons = by_hand([[x, y, w, h]], [], 64, 48)
    given_back = Exclude(polygons)(recorded, restored)
    box = torch.zeros(48, 64, dtype=torch.bool)
    box[y : y + h, x : x + w] = True
    assert torch.equal(given_back[..., box], recorded[..., box])
    far = torch.ones(48, 64, dtype=torch.bool)
    far[max(0, y - SOFT_PX + 1) : y + h + SOFT_PX - 1, max(0, x - SOFT_PX + 1) : x + w + SOFT_PX - 1] = False
    assert torch.equal(given_back[..., far], restored[..., far])
    low, high = torch.minimum(recorded, restored), torch.maximum(recorded, restored)
    assert (given_back >= low - 1e-5).all() and (given_back <= high + 1e-5).all()


class Brighten(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return frames * 3

    def attempt(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return frames * 3, torch.ones(len(frames), dtype=torch.bool)


def test_the_guard_leaves_the_excluded_alone_and_smoothing_does_not_touch_it() -> None:
    polygons = by_hand([[0, 40, 96, 24]], [], 96, 64)
    frames = 0.95 + 0.05 * torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    guard = Guarded((), polygons, Brighten())
    recorded, restored = guard.pair(frames)
    assert torch.equal(recorded, frames)
    assert torch.equal(restored[..., 40:, :], frames[..., 40:, :])
    assert torch.equal(restored[..., : 40 - SOFT_PX, :], frames[..., : 40 - SOFT_PX, :] * 3)
    assert torch.equal(guard(frames), restored) and torch.equal(guard.attempt(frames)[0], restored)
    temporal = Temporal(1)
    window = [temporal.sample(*pair) for pair in zip(recorded, restored, strict=True)]
    assert window[1].share[40:].max() == 0 and window[1].share[: 40 - SOFT_PX].min() > 0
    assert torch.equal(temporal(window, 1)[:, 40:], frames[1][:, 40:])


def test_bits_do_not_depend_on_batch_or_threads() -> None:
    polygons = by_hand([], [[3, 30, 60, 22, 63, 47, 0, 47]], 64, 48)
    recorded, restored = torch.rand(2, 3, 48, 64), torch.rand(2, 3, 48, 64) * 4
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = Exclude(polygons)(recorded, restored)
        torch.set_num_threads(3)
        assert torch.equal(one, Exclude(polygons)(recorded, restored))
        assert torch.equal(one[1:], Exclude(polygons)(recorded[1:], restored[1:]))
    finally:
        torch.set_num_threads(threads)


def test_draw_outlines_the_polygon() -> None:
    (box,) = by_hand([[10, 20, 30, 12]], [], WIDTH, HEIGHT)
    changed = (draw(scene(0), [box]) != scene(0)).any(axis=2)
    assert changed[20, 10:40].all() and changed[31, 10:40].all()
    changed[20:32, 10:40] = False
    assert not changed.any()
