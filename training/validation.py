"""Validation: what a network makes of held-out frames, in the figures that converters are judged by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from datasets.sample import Dataset
from evaluation.metrics import WHITE_NITS, score
from evaluation.tonemap import encode_srgb, tone_map
from models.encodings import decode
from models.model import Model

Array = np.ndarray
PICTURES = 4


FIGURES = ("hl_stops", "hl_bias", "hl_detail", "mid_stops", "pu_psnr")


@dataclass(frozen=True)
class Validation:
    """figures: means over frames of hl_stops, hl_bias, hl_detail, mid_stops, pu_psnr (see evaluation.metrics.Scores), and net_r: the
    standard deviation of Net_R over lost pixels, in the output encoding; near 0 the restoration network is dead.
    merit: what the best checkpoint is chosen by, higher is better: hl_detail - hl_stops - mid_stops, or, where the truth has nothing
    above white, pu_psnr / 100.
    pictures: each (H, 3W, 3) uint8: the SDR, the result and the truth, tone-mapped, of the first frames."""

    figures: dict[str, float]
    merit: float
    pictures: list[Array]


def validate(model: Model, data: Dataset, numbers: Sequence[int], white: float) -> Validation:
    """Run the model in float32 on whole samples; every sample counts alike. white: the truth that stands for SDR white."""
    rows: list[dict[str, float]] = []
    pictures = []
    step = max(1, len(numbers) // PICTURES)
    for count, number in enumerate(numbers):
        sample = data[number]
        truth = sample.truth / np.float32(white)
        light, restored = _restore(model, sample.coded)
        scores = dataclasses.asdict(score(truth[None], [light * WHITE_NITS], WHITE_NITS))
        lost = truth.max(-1) >= 1.0
        rows.append(
            {name: scores[name] for name in FIGURES} | {"net_r": float(restored[lost].std()) if lost.any() else np.nan}
        )
        if count % step == 0 and len(pictures) < PICTURES:
            shown = (encode_srgb((sample.coded / 255.0) ** 2.4), *(tone_map(x * WHITE_NITS) for x in (light, truth)))
            pictures.append(np.concatenate(shown, axis=1))
    figures = {name: _mean([row[name] for row in rows]) for name in rows[0]}
    merit = figures["hl_detail"] - figures["hl_stops"] - figures["mid_stops"]
    return Validation(figures, merit if math.isfinite(merit) else figures["pu_psnr"] / 100, pictures)


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _restore(model: Model, coded: Array) -> tuple[Array, Array]:
    """(H, W, 3) uint8 -> light, and Net_R's summand: (H, W, 3) float32 each."""
    signal = torch.from_numpy(coded).permute(2, 0, 1)[None].float() / 255
    tone, restored = model.parts(signal.to(model.device))
    light = decode(tone + restored, model.spec.output_encoding) / model.spec.white_level
    return tuple(x[0].permute(1, 2, 0).cpu().numpy() for x in (light, restored))  # type: ignore[return-value]
