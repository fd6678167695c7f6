"""Flow against known motion: both methods find shifts, turns and zooms of drawn pictures, and the tensors' is about as exact as DIS."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from pipeline import flow
from pipeline.stages.temporal import METHODS

HEIGHT, WIDTH = 180, 320
EDGE_PX = 4
Array = np.ndarray
MIDDLE = np.array([[1, 0, WIDTH / 2], [0, 1, HEIGHT / 2], [0, 0, 1]])


def canvas(kind: str) -> Array:
    """Light (2 HEIGHT, 2 WIDTH, 3) of "noise" of many scales, or of "boxes" with flat insides."""
    random = np.random.default_rng(5)
    size = (2 * HEIGHT, 2 * WIDTH, 3)
    if kind == "noise":
        layers = [cv2.GaussianBlur(random.random(size, np.float32), (0, 0), sigma) for sigma in (1.5, 4, 12, 40)]
        light = sum(
            (layer - layer.mean()) / layer.std() * share
            for layer, share in zip(layers, (0.3, 0.6, 1, 1.5), strict=True)
        )
    else:
        light = np.full(size, 0.4, np.float32)
        for _ in range(140):
            x, y, width, height = (
                int(random.integers(*ends)) for ends in ((0, size[1]), (0, size[0]), (8, 90), (8, 90))
            )
            cv2.rectangle(light, (x, y), (x + width, y + height), random.random(3).tolist(), -1)
        light = cv2.GaussianBlur(light, (0, 0), 1.0)
    low, high = np.quantile(light, (0.005, 0.995))
    return (0.04 + 0.6 * np.clip((light - low) / (high - low), 0, 1) ** 1.5).astype(np.float32)


def with_white_oval(light: Array) -> Array:
    """The canvas with a lamp or a piece of sky that no exposure here shows."""
    oval = cv2.ellipse(np.zeros(light.shape[:2], np.float32), (WIDTH, HEIGHT - 30), (100, 40), 0, 0, 360, 3.0, -1)
    return light + oval[..., None]


def moved(right: float, down: float, degrees: float, zoom: float) -> Array:
    """3x3: pixels of the first picture -> pixels of the second; turned and zoomed about the middle."""
    turn = np.deg2rad(degrees)
    about = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) @ np.diag(
        [zoom, zoom, 1]
    )
    about[:2, 2] = right, down
    return MIDDLE @ about @ np.linalg.inv(MIDDLE)


def seen(light: Array, to_canvas: Array, exposure: float, seed: int) -> flow.Picture:
    """What a camera sees of the canvas: sampled, exposed, noisy, clipped at white."""
    view = cv2.warpAffine(
        light,
        to_canvas[:2],
        (WIDTH, HEIGHT),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    noise = np.random.default_rng(seed).normal(0, 0.003, view.shape)
    frame = torch.from_numpy(np.clip(view * exposure + noise, 0, 1).astype(np.float32)).permute(2, 0, 1)
    return flow.make_picture(torch.cat([frame, frame.amax(dim=0)[None]]).contiguous())


MOTIONS = {
    "still": (0, 0, 0, 1),
    "part of a pixel": (1.3, -0.7, 0, 1),
    "shift": (7.4, 3.2, 0, 1),
    "far": (24, -9, 0, 1),
    "turn": (2, 1, 4, 1),
    "zoom": (-6, 4, 2, 1.1),
}


@pytest.mark.parametrize(
    ("stops", "white"), [(0.0, False), (0.7, True), (-0.7, True)], ids=["plain", "brighter", "darker"]
)
@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("kind", ["noise", "boxes"])
def test_tensors_are_about_as_exact_as_dis(kind: str, motion: str, stops: float, white: bool) -> None:
    light = with_white_oval(canvas(kind)) if white else canvas(kind)
    to_b = moved(*MOTIONS[motion])
    a, b = seen(light, MIDDLE, 1.0, 1), seen(light, MIDDLE @ np.linalg.inv(to_b), 2.0**stops, 2)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    true_x, true_y = (to_b @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1))[:2].reshape(2, HEIGHT, WIDTH)
    inner = (true_x >= EDGE_PX) & (true_y >= EDGE_PX) & (true_x < WIDTH - EDGE_PX) & (true_y < HEIGHT - EDGE_PX)
    errors = {}
    for name, method in METHODS.items():
        found = method.find_motions(a, [b])(0)
        assert found.known
        assert float(found.stops) == pytest.approx(stops, abs=0.03)
        errors[name] = float(np.hypot(found.x.numpy() - true_x, found.y.numpy() - true_y)[inner].mean())
    assert errors["dis"] < 2.5
    assert errors["tensor"] < 1.5 * errors["dis"] + 0.1


def test_a_pair_has_one_motion_whatever_it_is_found_beside() -> None:
    light = canvas("noise")
    a, *others = (seen(light, MIDDLE @ moved(right, 2, 0, 1), 1.0, right) for right in range(4))
    motions = METHODS["tensor"].find_motions(a, others)
    for number, other in enumerate(others):
        alone = METHODS["tensor"].find_motions(a, [other])(0)
        torch.testing.assert_close(motions(number).x, alone.x, atol=1e-3, rtol=0)
        assert float(motions(number).stops - alone.stops) == pytest.approx(0, abs=1e-4)
