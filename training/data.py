"""Data: opens what the settings name, for training and for validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets.sample import Dataset
from pipeline.errors import InputError
from training.sampler import Sampler
from training.settings import TrainConfig
from training.shards import ShardDataset

Held = tuple[Dataset, Sequence[int]]


def open_data(config: TrainConfig) -> tuple[Sampler, Held]:
    """What to learn from, and the held-out samples to validate on.

    Shards and Cityscapes come with a validation part; of VDS, whose test set is for testing, every eighth scene is held out.
    InputError when a folder is not as expected, or a frame of a shard is smaller than the crop (of other samples, when they are drawn).
    """
    settings = config.data
    folder = Path(settings.folder)
    if settings.kind == "shards":
        training, held = ShardDataset(folder / "train"), ShardDataset(folder / "validation")
        numbers, held_numbers = range(len(training)), range(len(held))
    elif settings.kind == "cityscapes":
        from datasets.cityscapes import CityscapesDataset

        training, held = CityscapesDataset(folder, "train"), CityscapesDataset(folder, "val")
        numbers, held_numbers = range(len(training)), range(len(held))
    else:
        from datasets.vds import VDSDataset

        training = held = VDSDataset(folder, "train", settings.normalise)
        scenes = sorted(set(training.scenes))
        apart = set(scenes[::8])
        numbers = [n for n, scene in enumerate(training.scenes) if scene not in apart]
        held_numbers = [n for n, scene in enumerate(training.scenes) if scene in apart]
    if not len(numbers) or not len(held_numbers):
        raise InputError(
            f"{folder}: {len(numbers)} samples to learn from and {len(held_numbers)} held out; both are needed."
        )
    if isinstance(training, ShardDataset):
        smallest = min(min(training.size(number)) for number in numbers)
        if smallest < settings.crop:
            raise InputError(
                f"{folder}: has frames of {smallest} rows or columns, fewer than data.crop={settings.crop}."
            )
    sampler = Sampler(training, numbers, settings.crop, settings.batch, config.seed, settings.white_level)
    return sampler, (held, held_numbers)
