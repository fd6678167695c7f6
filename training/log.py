"""Log: curves and pictures of a run for TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

import numpy as np


class Log(Protocol):
    """What the trainer uses of TensorBoard's SummaryWriter."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """A point of a curve."""
        ...

    def add_image(self, tag: str, img_tensor: np.ndarray, global_step: int, *, dataformats: str) -> None:
        """A picture."""
        ...

    def flush(self) -> None:
        """Write what is held back."""
        ...

    def close(self) -> None:
        """All is written."""
        ...


class NoLog:
    """Keeps nothing."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Nothing."""

    def add_image(self, tag: str, img_tensor: np.ndarray, global_step: int, *, dataformats: str) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def open_log(folder: Path, step: int) -> Log:
    """A log in that folder; what an earlier run logged after `step` is dropped. Without TensorBoard none is kept, and that is said."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        sys.stderr.write("no TensorBoard here: the curve is kept in curve.tsv alone\n")
        return NoLog()
    return SummaryWriter(str(folder), purge_step=step + 1)
