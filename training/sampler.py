"""Sampler: which squares of which frames an iteration learns from. Iteration numbers decide, so a run that goes on sees the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datasets.sample import Dataset
from pipeline.errors import InputError
from training.shards import ShardDataset

Array = np.ndarray
TRIES = 4
WANTED_LOST = (0.03, 0.75)
"""Share of a square's pixels at or above white that makes it worth learning from; others are taken when none of a few tries has it."""


class Sampler:
    """Batches of squares, mirrored at random. numbers: which samples of the data set to draw from."""

    def __init__(self, data: Dataset, numbers: Sequence[int], crop: int, batch: int, seed: int, white: float) -> None:
        self.data, self.numbers = data, list(numbers)
        self.crop, self.batch, self.seed, self.white = crop, batch, seed, white

    def batch_of(self, iteration: int, rank: int = 0) -> tuple[Tensor, Tensor]:
        """coded (N, 3, crop, crop) float32 in [0, 1], truth (N, 3, crop, crop) float32 with white at 1.0, both channels_last."""
        rng = np.random.default_rng([self.seed, iteration, rank])
        squares = [self._square(rng) for _ in range(self.batch)]
        coded = torch.from_numpy(np.stack([c for c, _ in squares])).permute(0, 3, 1, 2).float() / 255
        truth = torch.from_numpy(np.stack([t for _, t in squares])).permute(0, 3, 1, 2)
        return coded.contiguous(memory_format=torch.channels_last), truth.contiguous(memory_format=torch.channels_last)

    def _square(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """A window with a fit share of lost pixels, or the last of a few tries; mirrored or not."""
        in_memory = isinstance(self.data, ShardDataset)
        number = self._number(rng)
        sample = None if in_memory else self.data[number]  # files are slow to decode: one of them, several windows
        for attempt in range(TRIES):
            if in_memory and attempt:
                number = self._number(rng)
            height, width = self.data.size(number) if sample is None else sample.coded.shape[:2]
            if min(height, width) < self.crop:
                raise InputError(
                    f"{sample.name if sample else number}: {width}x{height}, smaller than data.crop={self.crop}."
                )
            top, left = rng.integers(0, height - self.crop + 1), rng.integers(0, width - self.crop + 1)
            window = np.s_[top : top + self.crop, left : left + self.crop]
            if sample is None:
                coded, truth = self.data.window(number, window)
            else:
                coded, truth = sample.coded[window], sample.truth[window]
            if WANTED_LOST[0] <= float((truth.max(-1) >= self.white).mean()) <= WANTED_LOST[1]:
                break
        truth = truth / np.float32(self.white)
        if rng.random() < 0.5:
            coded, truth = coded[:, ::-1], truth[:, ::-1]
        return np.ascontiguousarray(coded), np.ascontiguousarray(truth)

    def _number(self, rng: np.random.Generator) -> int:
        return self.numbers[rng.integers(len(self.numbers))]
