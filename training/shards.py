"""Shards: rendered pairs in files of at most 60 MiB that need nothing but numpy to read.

A shard is an `.npz` of whole frames of one size: `coded` (N, H, W, 3) uint8; `truth` (N, H, W, 3) uint16, light on a logarithmic
scale of 4095 steps (0.2 % each) up to 64 times SDR white, stored as differences along each row, which compress well; `scenes` (N,).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from datasets.sample import Sample
from pipeline.errors import InputError, SunvisorError

Array = np.ndarray
STEPS, BRIGHTEST, MU = 4095, 64.0, 100.0
SCALE = STEPS / math.log1p(MU * BRIGHTEST)
MAX_BYTES = 60 << 20
SUFFIX = ".npz"


def to_steps(truth: Array) -> Array:
    """Light, SDR white = 1.0, to uint16 steps 0 to 4095; above 64 it is clamped."""
    return np.round(SCALE * np.log1p(MU * np.clip(truth, 0.0, BRIGHTEST))).astype(np.uint16)


def from_steps(steps: Array) -> Array:
    """The inverse of `to_steps`, float32."""
    return LIGHT_OF_STEP[steps]


LIGHT_OF_STEP = (np.expm1(np.arange(STEPS + 1) / SCALE) / MU).astype(np.float32)


def write_shard(path: Path, samples: Sequence[Sample]) -> int:
    """Write samples of one size as a shard, complete or not at all; returns its size in bytes. SunvisorError above 60 MiB."""
    steps = np.stack([to_steps(sample.truth) for sample in samples])
    partial = path.with_name(f"{path.name}.part")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            coded=np.stack([sample.coded for sample in samples]),
            truth=np.diff(steps, axis=2, prepend=np.uint16(0)),
            scenes=np.array([sample.scene for sample in samples]),
        )
    size = partial.stat().st_size
    if size > MAX_BYTES:
        partial.unlink()
        raise SunvisorError(
            f"{path}: would be {size} bytes, above the limit of {MAX_BYTES} for a shard; put fewer frames into one."
        )
    partial.replace(path)
    return size


class ShardDataset:
    """All frames of the shards in a folder, held in memory. Follows datasets.sample.Dataset."""

    def __init__(self, folder: Path) -> None:
        """InputError when there are none, or one is damaged."""
        paths = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
        if not paths:
            raise InputError(
                f"{folder}: holds no shard (*{SUFFIX}); render some with: run_pipeline.py train prepare --output {folder.parent}"
            )
        self._frames: list[tuple[Array, Array, str]] = []
        for path in paths:
            self._frames += _read(path)
        self.scenes = [scene for _, _, scene in self._frames]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._frames)

    def __getitem__(self, number: int) -> Sample:
        """A whole frame."""
        coded, steps, scene = self._frames[number]
        return Sample(coded, from_steps(steps), f"{scene}:{number}", scene)

    def size(self, number: int) -> tuple[int, int]:
        """Height and width of a frame."""
        return self._frames[number][0].shape[:2]

    def window(self, number: int, window: tuple[slice, slice]) -> tuple[Array, Array]:
        """Coded and truth of a part (rows, columns) of a frame, without converting the rest of it."""
        coded, steps, _ = self._frames[number]
        return coded[window], from_steps(steps[window])


def _read(path: Path) -> list[tuple[Array, Array, str]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            coded, steps, scenes = file["coded"], np.cumsum(file["truth"], axis=2, dtype=np.uint16), file["scenes"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a readable shard ({error}); render it again with: train prepare") from error
    if coded.shape != steps.shape or len(scenes) != len(coded) or coded.ndim != 4:
        raise InputError(f"{path}: its arrays do not fit each other; render it again with: train prepare")
    return [(c, s, str(name)) for c, s, name in zip(coded, steps, scenes, strict=True)]
