"""Machine: what is decided once for all files of a batch, whoever plans them: arithmetic, encoder, checkpoint and precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.schema import Config, result_settings, settings_hash
from models import checkpoints
from models.model import DEVICE_PRECISIONS, Model, best_precision
from pipeline import engine as engines
from pipeline.encoder_choice import EncoderChoice, resolve_encoder
from pipeline.errors import InputError
from pipeline.looks import Looks

AUTO_CHECKPOINTS = {"cpu": ("tiny", "small", "base", "neutral"), "cuda": ("base", "tiny", "small", "neutral")}
"""Device -> what `model=auto` means there: the first of these that is shipped. `tiny` before `small`: of the two that are shipped now it
is the faster one and the truer one in well-exposed colours (docs/model_card.md)."""


@dataclass(frozen=True)
class Machine:
    """What is decided once for all files of a batch: the arithmetic of the machine that asks, the encoder, and the checkpoint.

    Whoever plans a file is told it, so that files may be planned on other machines than those that convert.
    """

    device: str
    numerics_class: str
    encoder: EncoderChoice
    precision: str
    model_sha256: str
    model_restores_highlights: bool


def this_machine(config: Config, looks: Looks | None = None) -> Machine:
    """What this machine decides for these settings. Raises InputError for a device, model, precision or encoder that it has not."""
    device = engines.resolve_device(config.device)
    _, model = find_model(config.model, device, looks or Looks())
    precision = choose_precision(config.precision, device, model)
    encoder = resolve_encoder(config.output, device)
    spec = model.spec
    return Machine(device, engines.numerics_class(device), encoder, precision, spec.sha256, spec.restores_highlights)


def auto_checkpoint(device: str) -> str:
    """The shipped checkpoint that `model=auto` means on "cpu" or "cuda"."""
    shipped = checkpoints.available()
    return next(name for name in AUTO_CHECKPOINTS[device] if name in shipped)


def find_model(wanted: str, device: str, looks: Looks) -> tuple[str, Model]:
    """What workers load it by (a shipped name or a path) and the model. Raises InputError for a name or file that is none."""
    name = auto_checkpoint(device) if wanted == "auto" else wanted
    try:
        model = looks.model(name)
    except checkpoints.CheckpointError as error:
        raise InputError(f"model={wanted}: {error}") from error
    return name if name in checkpoints.available() else str(Path(name).resolve()), model


def choose_precision(wanted: str, device: str, model: Model) -> str:
    """`auto` -> the best one for device and model. Raises InputError for one that does not run there."""
    if wanted == "auto":
        return best_precision(device, model.spec.width)
    legal = DEVICE_PRECISIONS[device]
    if wanted not in legal:
        raise InputError(f"precision={wanted}: does not run on {device}; legal there: auto, {', '.join(legal)}.")
    return wanted


def planned_settings_hash(config: Config, machine: Machine) -> str:
    """Hash (hex) of the result settings, with every `auto` resolved that is not a file's own."""
    encoder = machine.encoder
    settings = result_settings(config)
    settings |= {
        "model": None,
        "precision": machine.precision,
        "device": machine.device,
        "encoder": [encoder.encoder, encoder.crf, encoder.preset],
    }
    settings["encoder"].append(sorted(encoder.options.items()))
    return settings_hash(settings)
