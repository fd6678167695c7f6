"""Training settings: every key and its default; configs/train_*.yaml and `key=value` words override them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.schema import recipes
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

    white_level: truth that stands for SDR white; 1 for shards.
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

    limit: light, relative to white, above which errors count a quarter (a 1000-nit grade shows no more); 0 = no limit.
    lost_weight: how much more a lost pixel counts than another.
    """

    pixel: str = "log"
    limit: float = 3.94
    lost_weight: float = 3.0
    detail_weight: float = 0.1
    quiet_weight: float = 0.05
    perceptual: str = "none"
    perceptual_weight: float = 0.1
    perceptual_every: int = 1


@dataclass
class TrainConfig:
    """One training run. amp: auto = bfloat16 on CUDA, off on a CPU. Intervals are in iterations."""

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
    licence: str = "Apache-2.0"
    training_data: str = "85 CC0 and BSD HDR scenes less 12 held out; docs/model_card.md"
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    loss: LossSettings = field(default_factory=LossSettings)


LEGAL: dict[str, tuple[Any, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "amp": ("auto", "off", "bf16"),
    "model.architecture": tuple(entry.name for entry in registry.ARCHITECTURES if entry.restores),
    "model.input_encoding": INPUT_ENCODINGS,
    "model.output_encoding": tuple(ENCODINGS),
    "data.kind": ("shards", "cityscapes", "vds"),
    "data.normalise": ("none", "peak"),
    "loss.pixel": ("log", "pu", "tanh"),
    "loss.perceptual": ("none", "vgg16", "efficientnet_lite0"),
}

LEAST: dict[str, float] = {
    "iterations": 1,
    "warmup": 0,
    "save_every": 1,
    "validate_every": 1,
    "data.batch": 1,
    "data.crop": 16,
    "data.white_level": 1e-6,
    "loss.perceptual_every": 1,
    "loss.limit": 0,
    "learning_rate": 0,
    "clip_norm": 1e-9,
    "ema_decay": 0,
}


def load_train_config(file: Path | None, overrides: list[str]) -> TrainConfig:
    """Defaults, then the YAML file, then `key=value` words. InputError names the key and the legal values."""
    merged = OmegaConf.structured(TrainConfig)
    try:
        if file is not None:
            merged = OmegaConf.merge(merged, OmegaConf.load(file))
        config: TrainConfig = OmegaConf.to_object(OmegaConf.merge(merged, OmegaConf.from_dotlist(overrides)))  # type: ignore[assignment]
    except FileNotFoundError as error:
        shipped = ", ".join(recipes())
        raise InputError(f"{file}: no such configuration file; shipped are: {shipped}.") from error
    except (OmegaConfBaseException, ValueError) as error:
        raise InputError(
            f"training settings: {str(error).splitlines()[0]}. Legal keys: {', '.join(_keys())}."
        ) from error
    for key, legal in LEGAL.items():
        if _get(config, key) not in legal:
            raise InputError(f"{key}={_get(config, key)}: not a legal value; legal: {', '.join(map(str, legal))}.")
    for key, least in LEAST.items():
        if _get(config, key) < least:
            raise InputError(f"{key}={_get(config, key)}: too small; it must be at least {least:g}.")
    return config


def _keys(kind: type = TrainConfig, prefix: str = "") -> list[str]:
    keys = []
    for item in dataclasses.fields(kind):
        nested = item.default_factory if isinstance(item.default_factory, type) else None
        keys += _keys(nested, f"{prefix}{item.name}.") if nested else [prefix + item.name]
    return keys


def _get(config: TrainConfig, key: str) -> Any:  # noqa: ANN401 - settings are of several types
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
