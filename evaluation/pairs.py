"""What is compared: for each picture, its name and how to get the result and the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from datasets.images import SUFFIXES, read_light
from datasets.pairs import PairDataset
from models import checkpoints
from models.checkpoints import CheckpointError
from models.encodings import decode
from pipeline.engine import resolve_device
from pipeline.errors import InputError
from pipeline.stages.reconstruct import Reconstruct, choose_tile

Array = np.ndarray
TILE_BUDGET_BYTES = 1_500_000_000


@dataclass(frozen=True)
class Case:
    """One comparison. read: gives (result, truth), each (H, W, 3) float32 linear light in one unit; InputError as `read_light`."""

    name: str
    read: Callable[[], tuple[Array, Array]]


class Network:
    """A checkpoint that restores pictures. InputError when it cannot be loaded, or the device is not here."""

    def __init__(self, name_or_path: str, device: str = "auto") -> None:
        self.device = resolve_device(device)
        try:
            self.model = checkpoints.load(name_or_path, self.device)
        except CheckpointError as error:
            raise InputError(f"--model {error}") from error

    def restore(self, coded: Array) -> Array:
        """(H, W, 3) uint8 sRGB picture -> (H, W, 3) float32 light in the unit that the checkpoint was trained in: for a converter
        1.0 = SDR white, for weights of a data set that data set's own unit (`white_level` of it is SDR white)."""
        signal = torch.from_numpy(coded.astype(np.float32) / 255.0).permute(2, 0, 1)[None].to(self.device)
        tile = choose_tile(self.model, *coded.shape[:2], "fp32", TILE_BUDGET_BYTES)
        with torch.no_grad():
            light = Reconstruct(self.model, "fp32", tile)(decode(signal, "srgb")) * self.model.spec.white_level
        return light[0].permute(1, 2, 0).cpu().numpy()


def picture_cases(result: Path, truth: Path) -> list[Case]:
    """One pair of files, or two folders: each picture of the truth's folder (and its subfolders) with the one of that name among the
    results; a result's name may go on after it with `_`. InputError when one is missing, doubled, or a folder meets a file."""
    for path in (result, truth):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder.")
    if result.is_dir() != truth.is_dir():
        raise InputError(f"{result} and {truth}: one is a folder and the other a file; give two files or two folders.")
    if not truth.is_dir():
        return [Case(truth.stem, lambda: (read_light(result), read_light(truth)))]
    truths: dict[str, Path] = {}
    for path in _pictures(truth):
        if path.stem in truths:
            raise InputError(f"{path}: a second truth named {path.stem}, beside {truths[path.stem]}; keep one.")
        truths[path.stem] = path
    found = match_results(result, truths)
    return [Case(name, _both(found[name], lambda path=path: read_light(path))) for name, path in truths.items()]


def dataset_cases(data: PairDataset, restore: Callable[[Array], Array] | None, results: Path | None) -> list[Case]:
    """Every sample of a data set, with what `restore` makes of its picture, or with the result of its name in the folder `results`."""
    if restore is not None:

        def run(number: int) -> tuple[Array, Array]:
            sample = data[number]
            return restore(sample.coded), sample.truth

        return [Case(pair.name, lambda number=number: run(number)) for number, pair in enumerate(data.pairs)]
    if results is None:
        raise ValueError("dataset_cases needs `restore` or `results`")
    found = match_results(results, [pair.name for pair in data.pairs])
    return [
        Case(pair.name, _both(found[pair.name], lambda number=number: data[number].truth))
        for number, pair in enumerate(data.pairs)
    ]


def match_results(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Name -> the picture in the folder (or its subfolders) whose stem is the name, or else goes on after it with `_`.

    InputError when there is no such folder, or a name has none or several.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of results.")
    files = _pictures(folder)
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        by_stem.setdefault(path.stem, []).append(path)
    found: dict[str, Path] = {}
    missing = []
    for name in names:
        fitting = by_stem.get(name) or [path for path in files if path.stem.startswith(f"{name}_")]
        if len(fitting) > 1:
            raise InputError(
                f"{folder}: several results for {name}: {_some([str(path) for path in fitting])}; keep one."
            )
        if fitting:
            found[name] = fitting[0]
        else:
            missing.append(name)
    if missing:
        raise InputError(
            f"{folder}: no result for {_some(missing)} ({len(missing)} of {len(missing) + len(found)} missing); a result is named as its "
            f"truth, with a suffix of {', '.join(SUFFIXES)}."
        )
    return found


def _both(result: Path, truth: Callable[[], Array]) -> Callable[[], tuple[Array, Array]]:
    return lambda: (read_light(result), truth())


def _pictures(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and p.name[0] != ".")
    if not found:
        raise InputError(f"{folder}: no pictures in it; looked for {', '.join(SUFFIXES)}.")
    return found


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
