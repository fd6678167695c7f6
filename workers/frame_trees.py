"""Frame trees: folders of pictures as an input, and where the pictures made of them go.

A Cityscapes root holds trees of cameras (leftImg8bit, rightImg8bit, leftImg8bit_sequence ...) beside trees of labels and measurements
(disparity, camera, gtFine ...). The first are mirrored with 16bit for 8bit, in folders and names; the second are never touched.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError
from pipeline.frame_files import ENDINGS
from pipeline.sequence import Run

CAMERA_TREE = re.compile(r"([a-z]+Img)8bit(_\w+)?", re.ASCII)
CAMERA_NAME = re.compile(r"(.+_[a-z]+Img)8bit", re.ASCII)
LABEL_TREE = re.compile(r"(disparity|camera|gtFine|gtCoarse|gtBbox|vehicle|timestamp)(_?\w+)?", re.ASCII)
VIDEO_FOLDER = "video"
"""Where videos go that are made in the same pass as pictures, so that the tree of pictures holds nothing else."""


def label_tree(file: Path, root: Path) -> Path | None:
    """The folder of labels or measurements in `root` that a file lies in: named as Cityscapes does, beside a camera's tree. Else None."""
    folders = [folder for folder in file.parents if folder.is_relative_to(root) and folder != root]
    return next((one for one in reversed(folders) if LABEL_TREE.fullmatch(one.name) and _has_camera(one.parent)), None)


def picture_targets(run: Run, root: Path, output: Path, frames: str) -> tuple[Path, ...]:
    """Where the picture made of each one of `run` goes: the tree below `root` mirrored into `output`.

    frames: a key of pipeline.frame_files.ENDINGS. leftImg8bit/val/ulm/x_leftImg8bit.png -> leftImg16bit/val/ulm/x_leftImg16bit.png
    """
    return tuple(output / _target(file.relative_to(root), run.kind, ENDINGS[frames]) for file in run.files)


def refuse_targets(runs: Sequence[Run], targets: Sequence[Path]) -> None:
    """Raise InputError when a picture would be written over one of the sources, or over another one. Writes nothing."""
    place = functools.cache(lambda folder: folder.resolve())
    sources = {place(file.parent) / file.name for run in runs for file in run.files}
    claims = Counter(place(target.parent) / target.name for target in targets)
    for target, count in claims.items():
        if target in sources:
            raise InputError(f"{target}: a result would be written over its source; name another folder for --output.")
        if count > 1:
            raise InputError(f"{target}: two pictures would be written here; convert them into different folders.")


def _target(inside: Path, kind: str, ending: str) -> Path:
    if kind != "cityscapes":
        return inside.with_suffix(ending)
    folders = [
        CAMERA_TREE.sub(r"\g<1>16bit\g<2>", part) if CAMERA_TREE.fullmatch(part) else part for part in inside.parts[:-1]
    ]
    return Path(*folders, CAMERA_NAME.sub(r"\g<1>16bit", inside.stem) + ending)


@functools.lru_cache(maxsize=64)
def _has_camera(folder: Path) -> bool:
    return any(CAMERA_TREE.fullmatch(path.name) and path.is_dir() for path in folder.iterdir())
