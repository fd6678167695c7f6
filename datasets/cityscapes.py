"""Cityscapes: road pictures of 8 bits beside the same pictures with 16 bits, the data set of the paper's main experiments.

Layout, as the data set's packages leftImg8bit_trainvaltest and leftImg16bit_trainvaltest unpack (Cordts et al., CVPR 2016):

    FOLDER/leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png     8 bits: what the network gets
    FOLDER/leftImg16bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg16bit.png   16 bits: the truth

with sequence and frame of six digits, for example aachen_000000_000019. Files that are no PNG are ignored, and hidden ones.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from datasets.images import FULL_SCALE_16, read_stored
from datasets.pairs import Pair, PairDataset, example_of
from pipeline.errors import InputError

CODED, TRUTH = "leftImg8bit", "leftImg16bit"
EXAMPLE = "aachen_000000_000019"
NAME = re.compile(
    r"(?P<city>[A-Za-z][\w-]*)_(?P<sequence>\d{6})_(?P<frame>\d{6})_(?P<kind>leftImg8bit|leftImg16bit)", re.ASCII
)


class CityscapesDataset(PairDataset):
    """Every pair of one split, sorted by city, sequence and frame.

    folder: the one that holds leftImg8bit and leftImg16bit. split: "train", "val", "test", "train_extra" or another folder in both.
    The truth is code / 65535, so 0 to 1, in the data set's own unit (the paper, supplement, below Eq. 1); SDR white is wherever the
    8-bit picture saturates, not at 1. scene: city_sequence, since the frames of a sequence show the same street.

    Raises InputError when a folder is missing or empty, a name is not as above, or a picture has no partner.
    """

    def __init__(self, folder: Path, split: str = "train") -> None:
        coded, truth = (_pictures(Path(folder), kind, split) for kind in (CODED, TRUTH))
        for kind, other, have, lack in ((CODED, TRUTH, coded, truth), (TRUTH, CODED, truth, coded)):
            alone = [path for key, path in have.items() if key not in lack]
            if alone:
                wanted = Path(folder) / other / split / alone[0].parent.name / alone[0].name.replace(kind, other)
                raise InputError(
                    f"{alone[0]}: its partner {wanted} is missing ({len(alone)} of {len(have)} {kind} pictures of split {split} have none); "
                    "unpack both packages whole, or remove the pictures without a partner."
                )
        pairs = [Pair(coded[key], truth[key], "_".join(key), "_".join(key[:2])) for key in sorted(coded)]
        super().__init__(pairs, read_truth)


def read_truth(path: Path) -> np.ndarray:
    """A 16-bit PNG as code / 65535, (H, W, 3) float32. InputError when it cannot be decoded or has not 16 bits."""
    stored = read_stored(path)
    if stored.dtype != np.uint16:
        raise InputError(f"{path}: its values are {stored.dtype}; the truth must have 16 bits a channel.")
    return stored.astype(np.float32) / np.float32(FULL_SCALE_16)


def _pictures(folder: Path, kind: str, split: str) -> dict[tuple[str, str, str], Path]:
    """(city, sequence, frame) -> file, of one kind and split. InputError when the folder is not as the layout says."""
    place = folder / kind / split
    legal = f"{place}/aachen/{EXAMPLE}_{kind}.png"
    if not place.is_dir():
        missing = next(p for p in (folder, folder / kind, place) if not p.is_dir())
        beside = sorted(p.name for p in missing.parent.iterdir() if p.is_dir()) if missing.parent.is_dir() else []
        raise InputError(
            f"{missing}: no such folder (beside it: {', '.join(beside[:8]) or 'no folder'}); looked there for Cityscapes pictures, "
            f"a legal name is {legal}"
        )
    found = sorted(
        path for path in place.glob("*/*") if path.suffix.lower() == ".png" and not path.name.startswith(".")
    )
    if not found:
        stray = sum(path.is_file() for path in place.rglob("*"))
        raise InputError(
            f"{place}: 0 PNG pictures in its folders of cities ({stray} other files in all); a legal name is {legal}"
        )
    named = {path: NAME.fullmatch(path.stem) for path in found}
    wrong = [p for p, match in named.items() if not match or match["city"] != p.parent.name or match["kind"] != kind]
    if wrong:
        raise InputError(
            f"{example_of(wrong)}: not named <city>_<sequence>_<frame>_{kind}.png in the folder of its city ({len(wrong)} of {len(found)} "
            f"pictures in {place}); a legal name is {legal}"
        )
    return {(match["city"], match["sequence"], match["frame"]): path for path, match in named.items()}
