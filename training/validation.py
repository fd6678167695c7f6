"""Validation: what a network makes of held-out frames, in the figures that converters are judged by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evaluation.metrics import Scores, score
from evaluation.tonemap import encode_srgb, tone_map
from models.model import Model
from training.sample import Dataset

Array = np.ndarray
WHITE_NITS = 203.0
PICTURES = 4


@dataclass(frozen=True)
class Validation:
    """figures: means over frames of hl_stops, hl_bias, hl_detail, mid_stops, pu_psnr (see evaluation.metrics.Scores).
    merit: what the best checkpoint is chosen by, higher is better: hl_detail - hl_stops - mid_stops.
    pictures: (rows, H, 3W, 3) uint8: the SDR, the result and the truth, tone-mapped, of the first few frames."""

    figures: dict[str, float]
    merit: float
    pictures: Array


def validate(model: Model, data: Dataset, numbers: Sequence[int], white: float) -> Validation:
    """Run the model in float32 on whole samples; every sample counts alike. white: the truth that stands for SDR white."""
    by_scene: dict[str, list[int]] = {}
    for number in numbers:
        by_scene.setdefault(data.scenes[number], []).append(number)
    scores: list[Scores] = []
    pictures = []
    for members in by_scene.values():
        samples = [data[number] for number in members]
        results = [_restore(model, sample.coded) for sample in samples]
        truths = [sample.truth / white for sample in samples]
        for result, truth in zip(results, truths, strict=True):
            scores.append(score(truth[None], [result * WHITE_NITS], WHITE_NITS))
        if len(pictures) < PICTURES:
            shown = [samples[0].coded, tone_map(results[0] * WHITE_NITS), tone_map(truths[0] * WHITE_NITS)]
            pictures.append(np.concatenate([encode_srgb((shown[0] / 255.0) ** 2.4), *shown[1:]], axis=1))
    figures = {}
    for name in ("hl_stops", "hl_bias", "hl_detail", "mid_stops", "pu_psnr"):
        values = np.array([dataclasses.asdict(s)[name] for s in scores])
        figures[name] = float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")
    merit = figures["hl_detail"] - figures["hl_stops"] - figures["mid_stops"]
    return Validation(
        figures, merit, np.stack(pictures) if len({p.shape for p in pictures}) == 1 else pictures[0][None]
    )


def _restore(model: Model, coded: Array) -> Array:
    """(H, W, 3) uint8 -> (H, W, 3) float32 light."""
    signal = torch.from_numpy(coded).permute(2, 0, 1)[None].float() / 255
    return model.restore(signal.to(model.device), "fp32")[0].permute(1, 2, 0).cpu().numpy()
