"""Pairs of files: a picture of 8 bits, and its truth. What the data sets that come as files have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.images import read_stored
from datasets.sample import Sample
from pipeline.errors import InputError

JPEG_SUFFIXES = (".jpg", ".jpeg")
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"
"""Markers SOS and EOI (ITU-T T.81, Table B.1); neither can occur inside the coded data."""


@dataclass(frozen=True)
class Pair:
    """coded: the 8-bit picture's file. truth: the file of its light. name, scene: as Sample's."""

    coded: Path
    truth: Path
    name: str
    scene: str


class PairDataset:
    """Samples from pairs of files, read when asked for (datasets.sample.Dataset).

    read_truth: a file -> (H, W, 3) float32 linear light, at least 0; it raises InputError for a file that it cannot use.
    """

    def __init__(self, pairs: Sequence[Pair], read_truth: Callable[[Path], np.ndarray]) -> None:
        self.pairs = tuple(pairs)
        self.read_truth = read_truth

    @property
    def scenes(self) -> Sequence[str]:
        """The scene of each sample, in order."""
        return [pair.scene for pair in self.pairs]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`, 0 to len - 1 (IndexError beyond).

        InputError when one of its files is missing, cannot be decoded or has the wrong depth, or when the two differ in size.
        """
        pair = self.pairs[number]
        coded, truth = read_coded(pair.coded), self.read_truth(pair.truth)
        if coded.shape != truth.shape:
            raise InputError(
                f"{pair.truth}: {_size(truth)} pixels, but its picture {pair.coded} has {_size(coded)}; a pair must have one size."
            )
        return Sample(coded, truth, pair.name, pair.scene)


def read_coded(path: Path) -> np.ndarray:
    """An 8-bit picture as it is coded, (H, W, 3) uint8 RGB; grey gives three equal channels. InputError naming the file for anything else."""
    stored = read_stored(path)
    if stored.dtype != np.uint8:
        raise InputError(f"{path}: its values are {stored.dtype}; the input picture must have 8 bits a channel.")
    if path.suffix.lower() in JPEG_SUFFIXES:
        data = path.read_bytes()
        if data.rfind(JPEG_END) < data.rfind(JPEG_SCAN):
            raise InputError(f"{path}: the JPEG is cut short, it ends within a scan; copy the file again.")
    return stored


def example_of(paths: Sequence[Path], most: int = 3) -> str:
    """The first few files of a list and how many more there are, for a message."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(str(path) for path in paths[:most]) + more


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"
