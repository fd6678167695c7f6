"""The `figures` command: from a checkpoint and pictures, figures of the kind that the DCDR-UNet paper shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from datasets.images import read_light
from evaluation.figure import save_png
from evaluation.figure_choice import (
    Crop,
    Point,
    busiest_centre,
    check_crop,
    largest_clipped_regions,
    parse_crop,
    parse_point,
    strongest_points,
)
from evaluation.figure_network import Look, Window, check_point, has_blocks, influence, look, sampling, window_for
from evaluation.figure_offsets import Aimed, draw_offsets
from evaluation.figure_source import Picture, is_image, read_frames, read_image
from evaluation.figure_strips import draw_strips
from evaluation.figure_summands import draw_features, draw_summands, signal_of
from models import checkpoints
from models.model import Model
from pipeline.color import coded_signal
from pipeline.engine import resolve_device
from pipeline.errors import InputError
from pipeline.machine import auto_checkpoint
from pipeline.stages.reconstruct import Reconstruct, choose_tile

Array = np.ndarray
STRIPS_BUDGET_BYTES = 1_500_000_000
WITHOUT_BLOCKS = (
    "features.png and offsets.png need a network of deformable blocks (dcdr_unet); checkpoint '{name}' is of architecture "
    "{architecture}, which has summands.png and strips.png only."
)


def make_figures(
    inputs: Sequence[Path],
    output: Path,
    *,
    model: str = "auto",
    frames: Sequence[int] = (),
    seconds: Sequence[float] = (),
    points: Sequence[str] = (),
    strips: Sequence[str] = (),
    truths: Sequence[Path] = (),
) -> str:
    """Write summands.png, features.png, offsets.png and strips.png for every picture; returns what to tell the user.

    inputs: 8-bit images and videos; several pictures get a folder each below `output`
    frames, seconds: which frames of every video (see figure_source.read_frames)
    points, strips: "X,Y" and "CATEGORY:X,Y,W,H", for every picture; chosen by the program when empty
    truths: linear HDR images, none or one for each picture, in order
    Raises InputError for what the user can mend.
    """
    wanted_points = [parse_point(text) for text in points]
    wanted_crops = [parse_crop(text) for text in strips]
    if (frames or seconds) and all(is_image(path) for path in inputs):
        raise InputError("--frame and --at choose frames of a video, but every input is an image; leave them out.")
    network = _load(model)
    if wanted_points and not has_blocks(network):
        raise InputError("--point: " + _without_blocks(network))
    pictures = [picture for path in inputs for picture in _pictures(path, frames, seconds)]
    if truths and len(truths) != len(pictures):
        raise InputError(
            f"--truth: {len(truths)} given for {len(pictures)} pictures; give one for each, in their order."
        )
    lights = [_truth(path, picture) for path, picture in zip(truths, pictures, strict=True)] if truths else []
    for picture in pictures:
        for point in wanted_points:
            check_point(point.x, point.y, picture.size, picture.title)
        for crop in wanted_crops:
            check_crop(crop, picture.size, picture.title)
    told: list[str] = []
    for number, picture in enumerate(pictures):
        folder = output if len(pictures) == 1 else output / f"{number + 1:02d}_{picture.name}"
        _make_folder(folder)
        told += _OnePicture(picture, folder, network, lights[number] if lights else None).draw(
            wanted_points, wanted_crops
        )
    return "\n".join(told)


def _load(wanted: str) -> Model:
    """The checkpoint, on the CPU; "auto" is the one that convert would use on this machine."""
    name = auto_checkpoint(resolve_device("auto")) if wanted == "auto" else wanted
    try:
        return checkpoints.load(name, "cpu")
    except checkpoints.CheckpointError as error:
        raise InputError(f"--model {wanted}: {error}") from error


def _pictures(path: Path, frames: Sequence[int], seconds: Sequence[float]) -> list[Picture]:
    return [read_image(path)] if is_image(path) else list(read_frames(path, frames, seconds))


def _truth(path: Path, picture: Picture) -> Array:
    light = read_light(path)
    if light.shape[:2] != picture.size:
        have, want = (f"{size[1]}x{size[0]}" for size in (light.shape, picture.size))
        raise InputError(f"{path}: this truth is {have}, {picture.title} is {want}; give a truth of the same size.")
    return light


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another --output folder.") from error


def _without_blocks(model: Model) -> str:
    return WITHOUT_BLOCKS.format(name=model.spec.name, architecture=model.spec.architecture)


class _OnePicture:
    """One picture with all that its figures share."""

    def __init__(self, picture: Picture, folder: Path, model: Model, truth: Array | None) -> None:
        self.picture, self.folder, self.model, self.truth = picture, folder, model, truth
        self.coded = coded_signal(picture.light, model.spec.input_encoding)
        self.sdr = _pixels(picture.light)
        self.signal = signal_of(self.sdr)
        self.looks: dict[Window, Look] = {}

    def draw(self, points: Sequence[Point], crops: Sequence[Crop]) -> list[str]:
        """Write the figures; returns lines for the user. Points and crops lie inside the picture; what is not named is chosen."""
        told = [f"{self.picture.title}: figures in {self.folder}", *(f"  {note}" for note in self.picture.notes)]
        if not self.model.spec.restores_highlights:
            told.append(f"  Checkpoint '{self.model.spec.name}' is not trained: it restores no highlights.")
        window = self._main_window()
        seen = look(self.model, self.coded, window)
        if (window.height, window.width) != self.picture.size:
            told.append(
                f"  The network was looked into through a window of {window.width}x{window.height} pixels at {window.left},{window.top}, "
                "as the whole picture would take too much memory."
            )
        part = self.sdr[window.top : window.top + window.height, window.left : window.left + window.width]
        caption = self._caption(window)
        self._save("summands.png", draw_summands(part, seen, self.model.spec.architecture, caption), told)
        if has_blocks(self.model):
            self._save("features.png", draw_features(part, seen, caption), told)
            self.looks[window] = seen
            self._offsets(points, told)
        else:
            told.append("  " + _without_blocks(self.model))
        self.looks.clear()
        self._strips(crops, told)
        return told

    def _offsets(self, points: Sequence[Point], told: list[str]) -> None:
        points = points or strongest_points(self.signal)
        if not points:
            told.append("  offsets.png is left out: the picture has no edge; name points with --point X,Y.")
            return
        aimed = []
        for point in points:
            sampled = sampling(self._look_at(point), point.x, point.y)
            aimed.append(Aimed(point, sampled, influence(self.model, self.coded, point.x, point.y)))
        self._save("offsets.png", draw_offsets(self.sdr, aimed, self._caption(None)), told)

    def _strips(self, crops: Sequence[Crop], told: list[str]) -> None:
        crops = crops or largest_clipped_regions(self.signal)
        if not crops:
            told.append("  strips.png is left out: no region is clipped; name crops with --strip CATEGORY:X,Y,W,H.")
            return
        tile = choose_tile(self.model, *self.picture.size, "fp32", STRIPS_BUDGET_BYTES)
        with torch.inference_mode():
            hdr = _pixels(Reconstruct(self.model, "fp32", tile)(self.picture.light))
        self._save("strips.png", draw_strips(self.sdr, hdr, self.truth, crops, self._caption(None)), told)

    def _main_window(self) -> Window:
        whole = window_for(self.model, (0, 0), self.picture.size)
        centre = busiest_centre(self.signal, min(whole.width, whole.height))
        return window_for(self.model, centre, self.picture.size)

    def _look_at(self, point: Point) -> Look:
        """A look that holds the point with the network's context around it; looks already made serve again."""
        for window, seen in self.looks.items():
            if window.holds(point.x, point.y, self.model.spec.halo_px, self.picture.size):
                return seen
        window = window_for(self.model, (point.x, point.y), self.picture.size)
        self.looks[window] = look(self.model, self.coded, window)
        return self.looks[window]

    def _caption(self, window: Window | None) -> str:
        spec = self.model.spec
        trained = "" if spec.restores_highlights else ", not trained"
        words = f"{self.picture.title}. Checkpoint {spec.name} ({spec.architecture}, width {spec.width}{trained})."
        if window is not None and (window.height, window.width) != self.picture.size:
            words += f" Window {window.width}x{window.height} at {window.left},{window.top} of {self.picture.size[1]}x{self.picture.size[0]}."
        return " ".join([words, *self.picture.notes])

    def _save(self, name: str, drawn: Array, told: list[str]) -> None:
        save_png(drawn, self.folder / name)
        told.append(f"  {name:14}{drawn.shape[1]}x{drawn.shape[0]}")


def _pixels(light: torch.Tensor) -> Array:
    """(1, 3, H, W) -> (H, W, 3)."""
    return light[0].permute(1, 2, 0).contiguous().numpy()
