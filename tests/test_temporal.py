"""Temporal: noise in restored light goes down and its mean stays, detail and lamps are kept, the camera's own pixels keep their bits, and a
frame depends on its window alone."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import flow
from pipeline.stages import temporal
from pipeline.stages.temporal import METHODS, Sample, Temporal

HEIGHT, WIDTH = 64, 96
Array = np.ndarray
LUMA = np.array([0.2126, 0.7152, 0.0722])


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Each method of flow, on the CPU."""
    return request.param


def scene(seed: int = 3, width: int = WIDTH + 40) -> Array:
    """Scene light (HEIGHT,width,3): a textured, well-exposed ground, and a bright patch of 2.5 to 4 times white in the middle rows."""
    noise = np.random.default_rng(seed).random((HEIGHT, width, 3), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    light = 0.1 + 0.4 * (smooth - smooth.min()) / np.ptp(smooth)
    columns = np.arange(40, width - 40)
    light[20:44, 40 : width - 40] = (3.2 + 0.7 * np.sin(columns / 2.0))[None, :, None].astype(np.float32)
    return light.astype(np.float32)


def frame(light: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(light.transpose(2, 0, 1)))


def samples(stage: Temporal, lights: list[Array], gains: list[float], left: int = 20) -> list[Sample]:
    """What a camera saw of scene light, and a restoration of it that is wrong by one gain a frame. A window of WIDTH columns from `left`."""
    found = []
    for light, gain in zip(lights, gains, strict=True):
        seen = light[:, left : left + WIDTH]
        restored = np.where(seen.max(-1, keepdims=True) >= 1, np.maximum(seen * np.float32(gain), 1), seen)
        found.append(stage.sample(frame(np.minimum(seen, 1)), frame(restored)))
    return found


def stops(restored: Tensor, patch: tuple[slice, slice]) -> float:
    """Mean log2 luminance."""
    return float(np.log2(restored.permute(1, 2, 0).numpy()[patch] @ LUMA).mean())


def weighted_mean(errors: list[float], place: int) -> float:
    """The mean that the stage promises: values within a stop of the frame's own, the less the further they are from it."""
    distances = np.array(errors) - errors[place]
    weights = np.maximum(0, 1 - distances**2) ** 2
    return errors[place] + float((weights * distances).sum() / weights.sum())


PATCH = (slice(24, 40), slice(30, 66))
GAINS = [1.0, 1.2, 0.9, 1.1, 0.85, 1.15, 0.95]


def test_a_static_scene_flickers_less_and_keeps_its_mean(method: str) -> None:
    stage = Temporal(2, method)
    window = samples(stage, [scene()] * 7, GAINS)
    before = [stops(sample.restored, PATCH) for sample in window]
    after = [stops(stage(window, place), PATCH) for place in range(7)]
    assert np.abs(np.diff(after)).mean() < 0.4 * np.abs(np.diff(before)).mean()
    assert np.mean(after[2:5]) == pytest.approx(np.mean([np.mean(before[p - 2 : p + 3]) for p in (2, 3, 4)]), abs=0.02)
    assert after[3] == pytest.approx(weighted_mean(before[1:6], 2), abs=0.01)


def test_noise_of_single_pixels_goes_down(method: str) -> None:
    stage, noise = Temporal(2, method), np.random.default_rng(8)
    light = scene()[:, 20 : 20 + WIDTH]
    window = []
    for _ in range(5):
        grain = np.exp2(noise.normal(0, 0.1, light.shape[:2])).astype(np.float32)[..., None]
        window.append(stage.sample(frame(np.minimum(light, 1)), frame(np.where(light > 1, light * grain, light))))

    def spread(restored: Tensor) -> float:
        luminance = restored.permute(1, 2, 0).numpy()[PATCH] @ LUMA
        return float(np.std(np.log2(luminance / (light[PATCH] @ LUMA))))

    assert spread(stage(window, 2)) < 0.6 * spread(window[2].restored)


def test_a_moving_pattern_stays_as_sharp(method: str) -> None:
    stage = Temporal(2, method)
    whole = scene(width=WIDTH + 40)
    lefts = [16, 18, 20, 22, 24]
    window = [samples(stage, [whole], [gain], left)[0] for left, gain in zip(lefts, GAINS, strict=False)]
    before, after = (restored.numpy()[1, 24:40, 30:66] for restored in (window[2].restored, stage(window, 2)))
    pattern = [np.log2(values) - np.log2(values).mean() for values in (before, after)]
    assert np.vdot(*pattern) / np.vdot(pattern[0], pattern[0]) == pytest.approx(1, abs=0.05)
    assert np.abs(after / before - 1).max() > 0.02


def test_a_step_of_exposure_is_compensated(method: str) -> None:
    stage, light = Temporal(2, method), scene()
    exposures = [1.0, 1.0, 1.0, 1.35, 1.35, 1.35]
    window = samples(stage, [light * np.float32(exposure) for exposure in exposures], [1.0] * 6)
    for place in range(6):
        error = np.log2(stage(window, place).numpy() / window[place].restored.numpy())
        assert np.abs(error[:, 24:40, 30:66]).mean() < 0.02


def test_a_gain_of_the_network_that_follows_exposure_is_removed(method: str) -> None:
    """A network that gives the same light whatever the exposure was is wrong by the step; the stage spreads that over its window."""
    stage, light = Temporal(2, method), scene()
    exposures = np.array([1.0, 1.3, 1.0, 1.3, 1.0])
    window = samples(stage, [light * np.float32(exposure) for exposure in exposures], list(1 / exposures))
    before = [stops(window[place].restored, PATCH) - np.log2(exposures[place]) for place in range(5)]
    after = [stops(stage(window, place), PATCH) - np.log2(exposures[place]) for place in range(5)]
    assert after[2] == pytest.approx(weighted_mean(before, 2), abs=0.01)
    assert abs(after[2] - np.mean(before)) < 0.3 * abs(before[2] - np.mean(before))


def test_nothing_comes_across_a_scene_cut(method: str) -> None:
    stage = Temporal(3, method)
    first, second = scene(3), scene(11)[::-1] * np.float32(0.6)
    second[20:44, 40:96] = 6.0
    mixed = samples(stage, [first] * 3 + [second] * 3, GAINS[:6])
    for place, own in ((1, mixed[:3]), (2, mixed[:3])):
        assert torch.equal(stage(mixed, place), stage(own, place))
    for place in (3, 4):
        assert torch.equal(stage(mixed, place), stage(mixed[3:], place - 3))


def test_a_blinking_lamp_keeps_blinking(method: str) -> None:
    stage, base = Temporal(2, method), scene()[:, 20 : 20 + WIDTH]
    lit = np.array([8.0, 0.8, 0.4], np.float32)
    window, on = [], [True, True, True, False, False, False, True, True, True]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = np.hypot(x - 12, y - 10) < 5
    for bright in on:
        light = base.copy()
        light[disc] = lit if bright else 0.02 * lit
        window.append(stage.sample(frame(np.minimum(light, 1)), frame(light)))
    inner = np.hypot(x - 12, y - 10) < 3
    levels = [
        float(np.log2(stage(window, place).permute(1, 2, 0).numpy()[inner] @ LUMA).mean()) for place in range(len(on))
    ]
    wanted = [np.log2((lit if bright else 0.02 * lit) @ LUMA) for bright in on]
    np.testing.assert_allclose(levels, wanted, atol=0.05)


def test_a_lamp_within_a_restored_area_keeps_blinking(method: str) -> None:
    """Saturated in every frame, so the SDR does not tell; the restored values do, as far as they are more than a stop apart."""
    stage, base = Temporal(2, method), scene()
    lights = []
    for bright in (True, True, False, False, True):
        light = base.copy()
        light[26:38, 60:72] = 12.0 if bright else 2.0
        lights.append(light)
    window = samples(stage, lights, [1.0] * 5)
    for place in range(5):
        inner = (slice(29, 35), slice(43, 49))
        assert stops(stage(window, place), inner) == pytest.approx(stops(window[place].restored, inner), abs=0.05)


def test_the_well_exposed_picture_keeps_its_bits(method: str) -> None:
    stage = Temporal(2, method)
    window = samples(stage, [scene()] * 5, GAINS[:5])
    smooth = stage(window, 2)
    untouched = window[2].share == 0
    assert 0.5 < float(untouched.float().mean()) < 0.9
    seen = scene()[:, 20 : 20 + WIDTH].max(-1)
    assert bool(untouched[torch.from_numpy(seen < 0.9)].all())
    assert torch.equal(smooth[:, untouched].view(torch.int32), window[2].restored[:, untouched].view(torch.int32))
    assert not torch.equal(smooth[:, ~untouched], window[2].restored[:, ~untouched])


def test_saturated_pixels_that_the_network_left_alone_keep_their_bits(method: str) -> None:
    """White graphics, and a network that restores nothing."""
    stage = Temporal(2, method)
    clipped = [np.minimum(scene()[:, 20 : 20 + WIDTH] * np.float32(gain), 1) for gain in (1.0, 1.1, 0.9)]
    window = [stage.sample(frame(light), frame(light)) for light in clipped]
    assert torch.equal(stage(window, 1), window[1].restored)


def test_radius_zero_and_a_lone_frame_come_back_as_they_are(method: str) -> None:
    off, stage = Temporal(0, method), Temporal(2, method)
    assert (off.lead_in, off.lead_out, stage.lead_in, stage.lead_out) == (0, 0, 2, 2)
    window = samples(off, [scene()] * 3, GAINS[:3])
    assert torch.equal(off(window, 1), window[1].restored)
    assert torch.equal(stage(window[:1], 0), window[0].restored)
    with pytest.raises(ValueError, match="radius is -1"):
        Temporal(-1)
    with pytest.raises(ValueError, match="legal are dis, tensor"):
        Temporal(1, "farneback")


def test_hue_stays(method: str) -> None:
    stage, light = Temporal(2, method), scene() * np.array([1.0, 0.9, 0.8], np.float32)
    window = samples(stage, [light] * 5, GAINS[:5])
    smooth, restored = (picture[:, 24:40, 30:66] for picture in (stage(window, 2), window[2].restored))
    ratio = smooth / restored
    assert float((ratio[0] - ratio[1]).abs().max()) < 1e-5
    assert float((ratio[0] - ratio[2]).abs().max()) < 1e-5


def digest(picture: Tensor) -> str:
    return hashlib.sha256(picture.contiguous().numpy().tobytes()).hexdigest()


def test_a_frame_depends_on_its_window_alone(method: str) -> None:
    """The same bytes whatever else is in the list: what makes the borders of spans exact."""
    stage = Temporal(2, method)
    lights = [np.roll(scene(), number, axis=1) for number in range(9)]
    window = samples(stage, lights, (GAINS + GAINS)[:9])
    for place in range(2, 7):
        part = samples(stage, lights[place - 2 : place + 3], (GAINS + GAINS)[place - 2 : place + 3])
        assert digest(stage(window, place)) == digest(stage(part, 2))


def test_the_same_bytes_from_any_number_of_threads(method: str) -> None:
    stage = Temporal(2, method)
    lights = [np.roll(scene(), number, axis=1) for number in range(6)]
    window = samples(stage, lights, GAINS[:6])
    alone = [digest(stage(window, place)) for place in range(6)]
    torch.set_num_threads(2)
    try:
        again = samples(stage, lights, GAINS[:6])
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda place: digest(stage(again, place)), [*range(6), *reversed(range(6))]))
    finally:
        torch.set_num_threads(1)
    assert together == alone + alone[::-1]


@pytest.mark.parametrize("size", [(541, 963), (63, 95), (8, 8)], ids=str)
def test_any_size(size: tuple[int, int]) -> None:
    """Also sizes that the reduction does not divide."""
    stage = Temporal(1)
    light = cv2.resize(scene()[:, 20 : 20 + WIDTH], size[::-1], interpolation=cv2.INTER_LINEAR)
    window = [
        stage.sample(frame(np.minimum(light, 1)), frame(np.where(light >= 1, light * np.float32(gain), light)))
        for gain in (0.9, 1.2, 1.0)
    ]
    smooth = stage(window, 1)
    assert smooth.shape == (3, *size)
    middle = smooth[1, size[0] // 2, size[1] // 2] / window[1].restored[1, size[0] // 2, size[1] // 2]
    assert float(middle) == pytest.approx((0.9 * 1.2 * 1.0) ** (1 / 3) / 1.2, abs=0.03)


def numpy_gain(window: list[Sample], place: int, radius: int) -> Array:
    """The stage's gain at reduced size by NumPy and OpenCV, along the motions that DIS finds; the frames are of one scene."""

    def read(values: Array) -> Array:
        return cv2.remap(values, motion.x.numpy(), motion.y.numpy(), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    here = window[place]
    share_here, stops_here, largest_here = (
        one.numpy() for one in (here.small_share, here.small_stops, here.picture.largest)
    )
    total, weight = np.zeros_like(stops_here), np.ones_like(stops_here)
    for other in [place - step for step in range(1, radius + 1)] + [place + step for step in range(1, radius + 1)]:
        there = window[other]
        motion = METHODS["dis"].find_motions(here.picture, [there.picture])(0)
        share = read(there.small_share.numpy())
        value = read(there.small_stops.numpy() * there.small_share.numpy()) / np.maximum(share, np.float32(1e-6))
        distance = value - motion.stops.numpy() - stops_here
        near = 1 - np.minimum(np.abs(distance) / np.float32(temporal.NEAR_STOPS), 1) ** 2
        both = (np.minimum(share, share_here) >= temporal.LEAST_RESTORED) & motion.inside.numpy()
        seen = (largest_here < flow.BRIGHTEST_LIGHT) | (read(there.picture.largest.numpy()) < flow.BRIGHTEST_LIGHT)
        counted, summed = (
            cv2.boxFilter(values, -1, (temporal.AROUND_PX, temporal.AROUND_PX), borderType=cv2.BORDER_REPLICATE)
            for values in (seen.astype(np.float32), motion.difference.numpy() * seen)
        )
        difference = summed / np.maximum(counted, np.float32(temporal.AROUND_PX**-2))
        low, high = temporal.AGREES_BELOW, temporal.DIFFERS_ABOVE
        trust = share * near * near * (1 - np.clip((difference - low) / (high - low), 0, 1)) * both
        total, weight = total + distance * both * trust, weight + trust
    return total / weight


def test_on_the_cpu_the_bits_are_those_of_numpy_and_opencv() -> None:
    """What the stage gave before it worked on tensors."""
    stage = Temporal(2)
    window = [
        samples(stage, [scene()], [gain], left)[0] for left, gain in zip((16, 18, 20, 22, 24), GAINS, strict=False)
    ]
    gain = stage._gain(window, 2)
    assert gain is not None
    assert float(gain.abs().max()) > 0.01
    assert gain.numpy().tobytes() == numpy_gain(window, 2, 2).tobytes()


@pytest.mark.gpu
def test_frames_on_a_gpu_are_smoothed_there_as_tensors_are_on_the_cpu() -> None:
    stage = Temporal(2, "tensor")
    lights = [np.roll(scene(), number, axis=1) for number in range(5)]
    window = samples(stage, lights, GAINS[:5])
    pairs = [
        (frame(np.minimum(seen, 1)), sample.restored)
        for seen, sample in zip([light[:, 20 : 20 + WIDTH] for light in lights], window, strict=True)
    ]
    there = [stage.sample(sdr.cuda(), restored.cuda()) for sdr, restored in pairs]
    assert all(sample.small_stops.is_cuda and sample.picture.light.is_cuda for sample in there)
    stage(there, 2)  # tables go to the GPU
    torch.cuda.set_sync_debug_mode("error")
    torch.use_deterministic_algorithms(True)
    try:
        found = stage(there, 2)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, stage(there, 2))
    assert torch.equal(found[:, there[2].share == 0], there[2].restored[:, there[2].share == 0])
    assert float((found.cpu() / stage(window, 2) - 1).abs().max()) < 0.01
