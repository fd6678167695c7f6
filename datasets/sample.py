"""Sample: one picture as a camera coded it, and the light that the network should answer with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Sample:
    """coded: (H, W, 3) uint8, RGB, the SDR signal. truth: (H, W, 3) float32 linear light, BT.709 primaries, at least 0, in the unit
    of its data set (for converters 1.0 = SDR white). name: for messages and tables. scene: samples of one scene go to training or
    to validation together."""

    coded: np.ndarray
    truth: np.ndarray
    name: str
    scene: str


class Dataset(Protocol):
    """A fixed list of samples, read when asked for."""

    @property
    def scenes(self) -> Sequence[str]:
        """The scene of each sample, in order."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`, 0 to len - 1; the same each time. InputError when its file cannot be used."""
        ...
