"""First network: what a run begins with, fresh or from a checkpoint."""

from __future__ import annotations

from torch import nn

from models import checkpoints, registry
from pipeline.errors import InputError
from training.settings import ModelSettings

MUST_MATCH = ("architecture", "width", "sft", "input_encoding", "output_encoding")


def first_network(settings: ModelSettings, seed: int) -> tuple[nn.Module, str]:
    """A network in training mode, and the sha256 of the checkpoint it starts from ("" for a fresh one).

    InputError for settings that make no network, and for a checkpoint of another one.
    """
    sft = settings.sft or settings.architecture == "hdrunet"
    if not settings.start:
        try:
            encodings = (settings.input_encoding, settings.output_encoding)
            return registry.build(settings.architecture, settings.width, sft, *encodings, seed).train(), ""
        except ValueError as error:
            raise InputError(f"model: {error}") from error
    try:
        start = checkpoints.load(settings.start)
    except checkpoints.CheckpointError as error:
        raise InputError(f"model.start: {error}") from error
    for name in MUST_MATCH:
        has, wanted = getattr(start.spec, name), sft if name == "sft" else getattr(settings, name)
        if has != wanted:
            raise InputError(
                f"model.start={settings.start}: its {name} is {has}, the settings say {wanted}; set model.{name}={has}."
            )
    return start.network.train().requires_grad_(True), start.spec.sha256
