"""Guarding burnt-in text: hidden from the network, back at the SDR's light, and nothing else touched."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.color import OutputSpec, bt2020_to_bt709, pack, unpack_hdr
from pipeline.invented import invented
from pipeline.overlay import OverlayBox, boxes_by_hand
from pipeline.stages.guarded import Guarded
from pipeline.stages.overlay import TEXT_LIGHT, OverlayGuard, fill, spread
from pipeline.stages.temporal import Temporal

HEIGHT, WIDTH = 64, 128
BOX = [6, 14, 100, 26]
AT = (12, 32)


def text_cover(text: str, thick: int = 1) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.putText(mask, text, AT, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, thick, cv2.LINE_AA)
    return mask.astype(np.float32) / 255


def ground(level: float) -> np.ndarray:
    """Coded picture (H,W,3): a soft slope around `level`."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    return np.repeat((level + 0.04 * np.sin(x / 30) + 0.04 * np.cos(y / 20))[..., None], 3, axis=2).clip(0, 1)


def burn(coded: np.ndarray, text: str, color: tuple[float, ...] = (1, 1, 1), outline: bool = False) -> np.ndarray:
    if outline:
        coded = coded * (1 - text_cover(text, 4)[..., None])
    share = text_cover(text)[..., None]
    return coded * (1 - share) + np.array(color, np.float32) * share


def light(coded: np.ndarray) -> Tensor:
    return torch.from_numpy((coded**2.4).astype(np.float32)).permute(2, 0, 1)[None].contiguous()


def boxes_for(text: str, **how: object) -> tuple[OverlayBox, ...]:
    """The box, looked into on grounds from dark to bright."""
    frames = [
        np.rint(255 * burn(ground(level), text, **how)).astype(np.uint8) for level in (0.2, 0.35, 0.5, 0.65, 0.97)
    ]
    return boxes_by_hand([BOX], frames)


def noise(seed: int, frames: int = 1) -> Tensor:
    return torch.rand(frames, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def sky_network(hidden: Tensor) -> Tensor:
    """Lifts what is near white to four times white, whole patches of it at once, as a network that sees context does."""
    lifted = ((hidden.amin(dim=1, keepdim=True) - 0.6) / 0.3).clamp(0, 1)
    return hidden * (1 + 3 * lifted)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.sampled_from(["12:34 KM", "88:88", ""]), st.booleans())
def test_a_network_that_changes_nothing_changes_no_bit(seed: int, text: str, outline: bool) -> None:
    guard = OverlayGuard(boxes_for("12:34 KM", outline=outline))
    frames = light(burn(noise(seed)[0].permute(1, 2, 0).numpy(), text, outline=outline))
    frames[..., :4] -= 0.02  # small negatives occur
    hidden, matte = guard.hide(frames)
    held = guard.hold(frames, matte)
    assert torch.equal(guard.show(hidden, held, hidden, matte), held)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.booleans())
def test_only_bright_text_and_what_is_beside_it_is_held(seed: int, white: bool) -> None:
    guard = OverlayGuard(boxes_for("12:34 KM", color=(1, 1, 1) if white else (1, 0.9, 0)))
    frames = light(burn(noise(seed)[0].permute(1, 2, 0).numpy(), "12:34 KM", (1, 1, 1) if white else (1, 0.9, 0)))
    _, matte = guard.hide(frames)
    held = guard.hold(frames, matte)
    near = spread((matte > 0).float(), 2 if white else 0)
    assert torch.equal(held * (1 - near), frames * (1 - near))
    assert held.amax(dim=1, keepdim=True)[matte >= 1].max() <= TEXT_LIGHT + 1e-6
    if not white:  # its hue is kept
        dim = (frames.amax(dim=1, keepdim=True) <= TEXT_LIGHT).expand_as(frames)
        assert torch.equal(held[dim], frames[dim])
        ratio = held / frames
        assert (ratio.amax(1) - ratio.amin(1)).abs().max() < 1e-5


def test_pixels_outside_the_boxes_keep_their_bits() -> None:
    guard, frames = OverlayGuard(boxes_for("12:34 KM")), noise(4, 2)
    hidden, matte = guard.hide(frames)
    x, y, width, height = BOX
    outside = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    outside[y : y + height, x : x + width] = False
    assert torch.equal(hidden[..., outside], frames[..., outside])
    assert matte[..., outside].abs().max() == 0
    restored = noise(5, 2) * 7
    assert torch.equal(
        guard.show(restored, guard.hold(frames, matte), hidden, matte)[..., outside], restored[..., outside]
    )


@pytest.mark.parametrize("level", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("color", [(1, 1, 1), (1, 0.9, 0)])
@pytest.mark.parametrize("outline", [False, True])
def test_text_is_hidden(level: float, color: tuple[float, ...], outline: bool) -> None:
    """What the network gets is within a few codes of the picture that never had text."""
    guard = OverlayGuard(boxes_for("12:34 KM", color=color, outline=outline))
    hidden, _ = guard.hide(light(burn(ground(level), "12:34 KM", color, outline)))
    error = (hidden[0].clamp_min(0) ** (1 / 2.4) - light(ground(level))[0] ** (1 / 2.4)).abs().amax(0).numpy()
    graphic = text_cover("12:34 KM", 4 if outline else 1) > 0
    assert error[graphic].mean() < 0.02
    assert np.quantile(error[graphic], 0.98) < 0.1
    assert error[~graphic].mean() < 0.005


@pytest.mark.parametrize("level", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("outline", [False, True])
def test_text_stays_at_white_and_the_sky_around_is_restored(level: float, outline: bool) -> None:
    guard = OverlayGuard(boxes_for("12:34 KM", outline=outline))
    plain = light(ground(level).clip(0, 1))
    frames = light(burn(ground(level), "12:34 KM", outline=outline))
    hidden, matte = guard.hide(frames)
    shown = guard.show(sky_network(hidden), guard.hold(frames, matte), hidden, matte)[0]
    solid = torch.from_numpy(text_cover("12:34 KM") > 200 / 255)
    assert shown[:, solid].max() <= 1.0
    assert (shown[:, solid] - frames[0][:, solid].clamp(max=TEXT_LIGHT)).abs().max() < 0.1
    graphic = text_cover("12:34 KM", 4 if outline else 1) > 0
    around = spread(torch.from_numpy(graphic.astype(np.float32))[None, None], 6)[0, 0].bool() & ~torch.from_numpy(
        graphic
    )
    stops = (shown[:, around].clamp_min(1e-3) / sky_network(plain)[0][:, around].clamp_min(1e-3)).log2().abs()
    assert stops.mean() < 0.1


@pytest.mark.parametrize("level", [0.2, 0.5])
def test_digits_that_were_never_seen_are_hidden_too(level: float) -> None:
    guard = OverlayGuard(boxes_for("12:34 KM"))
    frames = light(burn(ground(level), "95:76 KM"))
    hidden, matte = guard.hide(frames)
    solid = torch.from_numpy(text_cover("95:76 KM") > 200 / 255)
    assert (matte[0, 0][solid] > 0.9).float().mean() > 0.95
    assert (hidden[0][:, solid] - light(ground(level))[0][:, solid]).abs().mean() < 0.03


def test_text_recorded_above_white_comes_down_to_white() -> None:
    guard = OverlayGuard(boxes_for("12:34 KM"))
    frames = light(burn(ground(0.4), "12:34 KM")) * 1.2
    hidden, matte = guard.hide(frames)
    shown = guard.show(hidden * 2, guard.hold(frames, matte), hidden, matte)
    assert shown[0][:, torch.from_numpy(text_cover("12:34 KM") > 0.8)].max() <= TEXT_LIGHT + 1e-6


@settings(max_examples=10)
@given(st.integers(-20, 120), st.integers(-20, 60), st.integers(1, 60), st.integers(1, 40))
def test_boxes_may_cross_the_edge(x: int, y: int, width: int, height: int) -> None:
    digits = "f" * (width * height)
    guard = OverlayGuard((OverlayBox(x, y, width, height, 1.0, 1.0, 1.0, 8, digits, digits),) * 2)
    frames = noise(8)
    hidden, matte = guard.hide(frames)
    assert torch.isfinite(hidden).all() and matte.min() >= 0 and matte.max() <= 1
    held = guard.hold(frames, matte)
    assert torch.equal(guard.show(hidden, held, hidden, matte), held)


def test_bits_do_not_depend_on_batch_or_threads() -> None:
    guard = OverlayGuard(boxes_for("12:34 KM", outline=True))
    frames = torch.cat([light(burn(noise(n)[0].permute(1, 2, 0).numpy(), "12:34 KM", outline=True)) for n in range(3)])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        hidden, matte = guard.hide(frames)
        shown = guard.show(hidden * 2, guard.hold(frames, matte), hidden, matte)
        torch.set_num_threads(3)
        again, cover = guard.hide(frames)
        assert torch.equal(hidden, again) and torch.equal(matte, cover)
        one, cover = guard.hide(frames[1:2])
        assert torch.equal(hidden[1:2], one)
        assert torch.equal(shown[1:2], guard.show(one * 2, guard.hold(frames[1:2], cover), one, cover))
    finally:
        torch.set_num_threads(threads)


def test_fill_keeps_what_is_known_and_continues_a_slope() -> None:
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    signal = (0.2 + 0.01 * x + 0.005 * y).expand(1, 3, 40, 60).contiguous()
    hole = torch.zeros(1, 1, 40, 60)
    hole[..., 15:21, 10:50] = 1
    filled = fill(torch.where(hole > 0, 1.0, signal), hole)
    keep = (hole == 0).expand_as(signal)
    assert torch.equal(filled[keep], signal[keep])
    assert (filled - signal).abs().max() < 0.02


@pytest.mark.parametrize("slope", [0.0, 0.5, -1.0])
def test_fill_runs_an_edge_on(slope: float) -> None:
    """A roof line against the sky, behind a line of text."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    signal = torch.where(x - 40 > slope * (y - 30), 0.95, 0.3).expand(1, 3, 60, 80).contiguous()
    hole = torch.zeros(1, 1, 60, 80)
    hole[..., 24:36, 8:72] = 1
    filled = fill(torch.where(hole > 0, 0.0, signal), hole)
    wrong = (filled - signal).abs().amax(dim=1)[0][24:36, 8:72]
    assert (wrong > 0.2).float().mean() < 0.08


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_fill_stays_within_what_is_known(height: int, width: int, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    signal = torch.rand(1, 3, height, width, generator=chance)
    hole = (torch.rand(1, 1, height, width, generator=chance) < 0.6).float()
    filled = fill(signal, hole)
    known = signal[(hole == 0).expand_as(signal)]
    if known.numel():
        assert filled.min() >= known.min() - 1e-5 and filled.max() <= known.max() + 1e-5
    else:
        assert filled.abs().max() == 0


def largest_channel(frames: Tensor) -> Tensor:
    """Nits (H,W) of the largest channel after 4:2:0 of ten bits."""
    planes = pack(frames, OutputSpec("pq", 203.0, 1000.0), torch.tensor([0]))
    return bt2020_to_bt709(unpack_hdr(*planes, "pq"))[0].amax(dim=0)


def test_white_text_on_a_warm_night_stays_at_white_after_4_2_0() -> None:
    """The scene's chroma is in the text as 4:2:0 left it, so its red is recorded above white, and so it comes out if it is only clipped."""
    cover = torch.from_numpy(text_cover("12:34 KM", 2))[None, None]
    frames = light(ground(0.2)) * torch.tensor([1.5, 0.8, 0.3])[:, None, None]
    frames = frames * (1 - cover) + torch.tensor([1.22, 0.86, 0.5])[:, None, None] * cover
    guard = OverlayGuard(boxes_for("12:34 KM"))
    hidden, matte = guard.hide(frames)
    firm = (cover >= 1)[0, 0] & (matte >= 1)[0, 0]
    assert firm.sum() > 50
    assert float(largest_channel(frames.clamp(max=1))[firm].max()) > 1.1 * 203
    assert float(largest_channel(guard.show(hidden, guard.hold(frames, matte), hidden, matte))[firm].max()) < 203


class SkyNetwork(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return sky_network(frames)


def test_text_held_below_white_is_not_told_as_the_networks() -> None:
    guarded = Guarded(boxes_for("12:34 KM"), (), SkyNetwork())
    recorded, restored = guarded.pair(light(burn(ground(0.9), "12:34 KM")))
    _, matte = OverlayGuard(boxes_for("12:34 KM")).hide(light(burn(ground(0.9), "12:34 KM")))
    text = matte[0, 0] >= 1
    assert text.sum() > 50
    assert restored[0].amax(dim=0)[text].max() <= TEXT_LIGHT + 1e-6
    assert invented(recorded, restored)[0][text].max() == 0
    assert Temporal(1).sample(recorded[0], restored[0]).share[text].max() == 0
    assert invented(recorded, restored)[0][~spread(matte, 3)[0, 0].bool()].max() > 0
