"""Finding burnt-in text: in drawn drives of known text, and nothing where there is none."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.index import build_index
from pipeline.overlay import OverlayBox, boxes_by_hand, draw, find_overlays
from pipeline.overlay_pictures import MOST_KEYFRAMES, read_keyframes
from pipeline.probe import probe, read_color
from tests.clips import REAL_FRAMES, make_clip

Array = np.ndarray
HEIGHT, WIDTH, COUNT = 135, 240, 12
STYLES = {
    "white": ((255, 255, 255), 0, None),
    "outlined": ((255, 255, 255), 3, None),
    "yellow": ((255, 230, 0), 0, None),
    "bar": ((240, 240, 240), 0, (15, 15, 15)),
}
"""Colour, width of the black outline, colour of the bar."""


def scene(number: int, step: int = 9) -> Array:
    """A drive: bright sky and soft clouds above, houses below, all of it passing by `step` pixels a picture."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    x = x + step * number
    sky = 215 + 40 * np.sin(x / 37 + y / 23)
    noise = np.random.default_rng(5).integers(30, 150, (HEIGHT // 6 + 1, 800)).astype(np.float64)
    houses = noise[y // 6, x // 11 % 800]
    picture = np.where(y < HEIGHT * 0.4, sky, houses)[..., None] * np.array([1.0, 0.97, 0.9])
    return picture.clip(0, 255).astype(np.uint8)


def burn(picture: Array, text: str, at: tuple[int, int], style: str = "white", size: float = 0.4) -> Array:
    """A copy with text in it."""
    color, outline, bar = STYLES[style]
    picture = picture.copy()
    if bar:
        picture[max(0, at[1] - 14) : at[1] + 6, at[0] - 4 : at[0] + 8 * len(text)] = bar
    if outline:
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1 + outline, cv2.LINE_AA)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)
    return picture


def text_pixels(text: str, at: tuple[int, int], size: float = 0.4) -> Array:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.putText(mask, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, 255, 1, cv2.LINE_AA)
    return mask > 128


def inside(boxes: tuple[OverlayBox, ...]) -> Array:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for box in boxes:
        mask[box.y : box.y + box.height, box.x : box.x + box.width] = True
    return mask


def cover(box: OverlayBox) -> Array:
    return np.array([int(digit, 16) for digit in box.text]).reshape(box.height, box.width)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("at", [(8, 20), (8, HEIGHT - 8)])
def test_text_of_every_style_is_found(style: str, at: tuple[int, int]) -> None:
    text = "2026-03-14 07:42 KM/H"
    boxes = find_overlays(burn(scene(n), text, at, style) for n in range(COUNT))
    wanted = text_pixels(text, at)
    assert inside(boxes)[wanted].mean() > 0.98
    assert inside(boxes).mean() < 0.25


def test_changing_digits_are_in_the_box_and_in_its_map() -> None:
    at, texts = (8, HEIGHT - 8), [f"2026-03-14 {10 + 7 * n:02d}:{53 - 3 * n:02d}" for n in range(COUNT)]
    boxes = find_overlays(burn(scene(n), text, at) for n, text in enumerate(texts))
    assert len(boxes) == 1
    (box,) = boxes
    ever = np.any([text_pixels(text, at) for text in texts], axis=0)
    assert inside(boxes)[ever].mean() > 0.98
    seen = cover(box) > 4
    part = ever[box.y : box.y + box.height, box.x : box.x + box.width]
    assert seen[part].mean() > 0.85
    assert seen[~cv2.dilate(part.astype(np.uint8), np.ones((3, 3))).astype(bool)].mean() < 0.05


def test_two_corners_give_two_boxes() -> None:
    boxes = find_overlays(
        burn(burn(scene(n), "2026-03-14", (4, 128)), "SUNVISOR", (150, 20), "outlined") for n in range(COUNT)
    )
    assert len(boxes) == 2
    assert boxes[0].y < boxes[1].y


def test_a_logo_is_found_and_its_colour_told() -> None:
    def frame(number: int) -> Array:
        picture = scene(number)
        cv2.circle(picture, (205, 105), 14, (255, 255, 255), 3, cv2.LINE_AA)
        return picture

    boxes = find_overlays(frame(n) for n in range(COUNT))
    assert len(boxes) == 1
    assert inside(boxes)[105 - 15 : 105 + 16, 205 - 15 : 205 + 16].all()
    assert inside(boxes).mean() < 0.2
    assert min(boxes[0].red, boxes[0].green, boxes[0].blue) > 0.9


def test_a_logo_before_a_sky_that_stands_still_is_found_and_the_sky_is_not() -> None:
    def frame(number: int, *, logo: bool) -> Array:
        picture = scene(number)
        picture[:54] = (150, 170, 215)  # a clear sky
        picture[8:20, 20:44] = 250  # and a cloud in it that hardly moves
        picture = np.roll(picture, number // 4, axis=1)
        if logo:
            cv2.circle(picture, (205, 26), 14, (255, 255, 255), 4, cv2.LINE_AA)
        return picture

    (box,) = find_overlays(frame(n, logo=True) for n in range(COUNT))
    assert inside((box,))[26 - 16 : 26 + 17, 205 - 16 : 205 + 17].all()
    assert find_overlays(frame(n, logo=False) for n in range(COUNT)) == ()


def test_the_outline_is_told_from_none() -> None:
    for style, outlined in (("white", False), ("outlined", True)):
        boxes = find_overlays(burn(scene(n, 31), "2026-03-14 07:42", (8, 20), style) for n in range(COUNT))
        assert ("f" in "".join(box.outline for box in boxes)) == outlined


@pytest.mark.parametrize("step", [0, 9, 40])
def test_a_picture_without_text_gives_no_box(step: int) -> None:
    assert find_overlays(scene(n, step) for n in range(COUNT)) == ()


def test_what_stands_still_without_being_text_gives_no_box() -> None:
    """A saturated sky, a bonnet with a bright edge, a reflection in the windscreen, headlights of the car ahead that sway."""

    def frame(number: int) -> Array:
        picture = scene(number)
        picture[:30] = 255
        cv2.ellipse(picture, (120, 150), (150, 32), 0, 180, 360, (60, 20, 20), -1)
        cv2.ellipse(picture, (120, 150), (150, 32), 0, 180, 360, (190, 180, 180), 1, cv2.LINE_AA)
        glare = np.exp(
            -(((np.mgrid[:HEIGHT, :WIDTH][1] - 60) / 9.0) ** 2 + ((np.mgrid[:HEIGHT, :WIDTH][0] - 95) / 6.0) ** 2)
        )
        picture = (picture + 120 * glare[..., None]).clip(0, 255).astype(np.uint8)
        for x in (110, 130):
            cv2.circle(picture, (x + number % 3, 70 + number % 2), 4, (255, 255, 250), -1, cv2.LINE_AA)
        return picture

    assert find_overlays(frame(n) for n in range(COUNT)) == ()


def test_a_camera_that_stands_still_gives_no_box() -> None:
    rng = np.random.default_rng(3)
    still = burn(scene(0), "STATION HOTEL", (20, 90))
    noisy = [(still + rng.normal(0, 2, still.shape)).clip(0, 255).astype(np.uint8) for _ in range(COUNT)]
    assert find_overlays(noisy) == ()


@settings(max_examples=5)
@given(st.permutations(range(COUNT)))
def test_the_order_of_the_pictures_does_not_matter(order: list[int]) -> None:
    frames = [burn(scene(n), "2026-03-14 07:42", (8, HEIGHT - 8)) for n in range(COUNT)]
    assert find_overlays(frames[n] for n in order) == find_overlays(frames)


def test_gray_pictures_serve_too() -> None:
    frames = [burn(scene(n), "2026-03-14 07:42", (8, HEIGHT - 8)) for n in range(COUNT)]
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    assert len(find_overlays(gray)) == len(find_overlays(frames)) == 1


def test_a_box_is_plain_data() -> None:
    (box,) = find_overlays(burn(scene(n), "2026-03-14 07:42", (8, HEIGHT - 8)) for n in range(COUNT))
    assert OverlayBox(**json.loads(json.dumps(asdict(box)))) == box
    assert len(box.text) == len(box.outline) == box.width * box.height


def test_boxes_by_hand_are_kept_and_looked_into() -> None:
    frames = [burn(scene(0), "PARKED 07:42", (8, 128)) for _ in range(3)]
    (box,) = boxes_by_hand([[2, 112, 120, 22]], frames)
    assert (box.x, box.y, box.width, box.height) == (2, 112, 120, 22)
    assert (cover(box)[text_pixels("PARKED 07:42", (8, 128))[112:134, 2:122]] > 4).mean() > 0.85


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [-1, 0, 5, 5], [0, 0, WIDTH + 1, 5], [0, HEIGHT - 2, 5, 5], [1, 2, 3]])
def test_impossible_boxes_are_refused(box: list[int]) -> None:
    with pytest.raises(InputError, match="legal is"):
        boxes_by_hand([box], [scene(0)])


def test_draw_frames_the_boxes_and_nothing_else() -> None:
    box = OverlayBox(10, 20, 30, 12, 1.0, 1.0, 1.0, 8, "0" * 360, "0" * 360)
    frame = scene(0)
    drawn = draw(frame, (box,))
    changed = (drawn != frame).any(axis=2)
    assert (
        changed[20, 10:40].all() and changed[31, 10:40].all() and changed[20:32, 10].all() and changed[20:32, 39].all()
    )
    changed[20:32, 10:40] = False
    assert not changed.any()


@pytest.mark.parametrize(("frames", "gop", "least"), [(40, 4, 10), (60, 60, 8), (3, 3, 3), (150, 1, MOST_KEYFRAMES)])
def test_pictures_come_from_all_over_the_file(tmp_path: Path, frames: int, gop: int, least: int) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=frames, gop=gop, bframes=0)
    info = probe(clip)
    stream = info.video_streams[0]
    color, _ = read_color(stream)
    index = build_index(clip, stream.index)
    pictures = read_keyframes(clip, stream.index, index, stream.layout, color)
    assert least <= len(pictures) <= MOST_KEYFRAMES
    assert pictures[0].shape == (stream.height, stream.width, 3) and pictures[0].dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


@pytest.mark.parametrize("name", sorted(REAL_FRAMES))
def test_real_clips_without_text_give_no_box(real_clips: Path, name: str) -> None:
    clip = real_clips / name
    stream = probe(clip).video_streams[0]
    color, _ = read_color(stream)
    index = build_index(clip, stream.index)
    assert find_overlays(read_keyframes(clip, stream.index, index, stream.layout, color)) == ()
