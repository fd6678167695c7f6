"""Training settings: every key and its default; configs/train_*.yaml and `key=value` words override them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.layers import get, merge, read_words, read_yaml
from models import registry
from models.encodings import ENCODINGS, INPUT_ENCODINGS
from pipeline.errors import InputError


@dataclass
class ModelSettings:
    """The network, as models.registry builds it. Nothing in `start` means a fresh one, else the checkpoint to go on from."""

    architecture: str = "dcdr_unet"
    width: int = 16
    sft: bool = False
    input_encoding: str = "bt1886"
    output_encoding: str = "log"
    start: str = ""


@dataclass
class DataSettings:
    """Pairs to learn from. folder: of shards (`train prepare` makes them), of Cityscapes or of VDS; normalise is VDS's.

    white_level: truth that stands for SDR white; 1 for shards. It goes into the checkpoint, whose light is divided by it.
    """

    kind: str = "shards"
    folder: str = "runs/data"
    normalise: str = "none"
    white_level: float = 1.0
    crop: int = 160
    batch: int = 4


@dataclass
class LossSettings:
    """What is minimised; training/losses.py says what the names mean. perceptual_every: a step in so many carries that loss.

    limit: light, relative to white, above which errors count a fifth (a 1000-nit grade shows no more); 0 = no limit.
    lost_weight: how much more a lost pixel counts than another.
    """

    pixel: str = "log"
    limit: float = 3.94
    lost_weight: float = 3.0
    detail_weight: float = 0.1
    slope_weight: float = 0.2
    colour_weight: float = 0.05
    quiet_weight: float = 0.05
    perceptual: str = "none"
    perceptual_weight: float = 0.1
    perceptual_every: int = 1


@dataclass
class TrainConfig:
    """One training run. amp: auto = bf16 on CUDA, float32 on a CPU. Intervals are in iterations. licence, training_data: for the checkpoint."""

    output: str = "runs/train"
    device: str = "auto"
    amp: str = "auto"
    seed: int = 0
    iterations: int = 10000
    learning_rate: float = 1e-3
    warmup: int = 200
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    save_every: int = 250
    validate_every: int = 1000
    licence: str = "not said"
    training_data: str = "not said"
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    loss: LossSettings = field(default_factory=LossSettings)


LEGAL: dict[str, tuple[Any, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "amp": ("auto", "float32", "bf16"),
    "model.architecture": tuple(entry.name for entry in registry.ARCHITECTURES if entry.restores),
    "model.input_encoding": INPUT_ENCODINGS,
    "model.output_encoding": tuple(ENCODINGS),
    "data.kind": ("shards", "cityscapes", "vds"),
    "data.normalise": ("none", "peak"),
    "loss.pixel": ("log", "pu", "tanh"),
    "loss.perceptual": ("none", "vgg16", "efficientnet_lite0"),
}

RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63),
    "iterations": (1, 1 << 40),
    "learning_rate": (0, 10),
    "warmup": (0, 1 << 40),
    "clip_norm": (1e-9, 1e9),
    "ema_decay": (0, 1),
    "save_every": (1, 1 << 40),
    "validate_every": (1, 1 << 40),
    "data.white_level": (1e-6, 1e6),
    "data.crop": (16, 1 << 14),
    "data.batch": (1, 1 << 14),
    "loss.limit": (0, 1e6),
    "loss.lost_weight": (0, 1e6),
    "loss.detail_weight": (0, 1e6),
    "loss.slope_weight": (0, 1e6),
    "loss.colour_weight": (0, 1e6),
    "loss.quiet_weight": (0, 1e6),
    "loss.perceptual_weight": (0, 1e6),
    "loss.perceptual_every": (1, 1 << 40),
}


def load_train_config(file: Path | None, overrides: list[str]) -> TrainConfig:
    """Defaults, then the YAML file, then `key=value` words. InputError names the key and the legal values."""
    layers = [] if file is None else [(read_yaml(file), str(file))]
    config = merge(TrainConfig, [*layers, *read_words(overrides, "iterations=2000")])
    for key, legal in LEGAL.items():
        if get(config, key) not in legal:
            raise InputError(f"{key}={get(config, key)}: not a legal value; legal: {', '.join(map(str, legal))}.")
    for key, (low, high) in RANGES.items():
        if not low <= get(config, key) <= high:
            raise InputError(f"{key}={get(config, key)}: out of range; legal: {low:g} to {high:g}.")
    if config.data.kind != "shards" and config.model.input_encoding != "srgb":
        raise InputError(
            f"data.kind={config.data.kind}: its pictures are coded as sRGB; set model.input_encoding=srgb."
        )
    if config.data.kind == "shards" and config.data.white_level != 1.0:
        raise InputError("data.white_level: shards have SDR white at 1; leave it alone.")
    return config
