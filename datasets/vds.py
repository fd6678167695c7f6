"""VDS: photographs in seven exposures beside merged HDR pictures (Lee, An, Kang: 'Deep chain HDRI', IEEE Access 2018; 'Deep recursive
HDRI', ECCV 2018). 48 scenes to train on, 48 to test on.

What is expected: one or more folders of the split, FOLDER/<split>, FOLDER/<split>_set, FOLDER/<split>_hdr or FOLDER/<split>_hdr_set, and
somewhere in them the pictures (.png, .jpg) and the truth (.hdr) of every scene. A file belongs to the scene that its folder is named
after; in the split's own folder, or in one called set, hdr, hdr_set, ldr, ldr_set or gt, to the scene that the file is named after. So

    FOLDER/train_set/t1/t1_0EV_true.jpg.png      FOLDER/train_hdr_set/t1/target_hdr.hdr     (as public loaders of VDS read it)
    FOLDER/train/set/t1/t1_0EV_true.jpg.png      FOLDER/train/hdr/t1.hdr
    FOLDER/train/t1/t1_0EV.png                   FOLDER/train/t1/t1.hdr
    FOLDER/train/ldr/t1.png                      FOLDER/train/hdr/t1.hdr

are all legal. A scene with several pictures says each one's exposure in its name, <scene>_<EV>EV, -3 to 3 in VDS; with one picture it
need not. A scene has one .hdr. Hidden files and other suffixes are ignored.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from datasets.images import read_light
from datasets.pairs import Pair, PairDataset, example_of
from pipeline.errors import InputError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
TRUTH_SUFFIX = ".hdr"
SPLIT_FOLDERS = ("{}", "{}_set", "{}_hdr", "{}_hdr_set")
SHARED_FOLDERS = ("set", "hdr", "hdr_set", "ldr", "ldr_set", "gt")
"""Folders inside a split that hold many scenes, whatever their case; any other folder is a scene's own."""
EXPOSURE = re.compile(r"(?P<scene>.+)_(?P<ev>[+-]?\d+(?:\.\d+)?)EV(?:_.*)?", re.IGNORECASE)
NORMALISE = ("none", "peak")
Scenes = defaultdict[str, list[Path]]


class VDSDataset(PairDataset):
    """One picture and its light for every scene of a split; t2 comes before t10.

    folder: see the module. split: "train" or "test". exposure_ev: which of a scene's pictures is the input; 0 is the camera's own
    exposure, the middle of the seven.

    normalise: "none" leaves the light as the .hdr holds it; "peak" divides each picture's light by its largest value. "none" is
    right: most pixels of VDS are within 0 and 1 as they are, and peaks differ from scene to scene by orders of magnitude, so dividing by
    them makes pictures with a low peak extremely bright and pictures with a high peak extremely dark: the network is asked for another
    brightness that nothing in its input tells, and most details are attenuated. The paper's authors did it in their rebuttal,
    called it the main reason for the low scores there (PSNR-mu 22.3 dB) and left it out afterwards (supplement, section 2.2,
    weakness 1). "peak" is here to repeat that experiment.

    Raises InputError when no folder of the split exists, none holds a scene, a scene lacks its picture, its truth or its exposure, or a
    name does not fit its folder.
    """

    def __init__(self, folder: Path, split: str = "train", normalise: str = "none", exposure_ev: float = 0.0) -> None:
        if normalise not in NORMALISE:
            raise InputError(f"normalise={normalise!r} is unknown for VDS; legal are {', '.join(NORMALISE)}.")
        pictures, truths, legal = _find(Path(folder), split)
        pairs = []
        for scene in sorted(pictures.keys() | truths.keys(), key=_natural):
            if len(truths[scene]) != 1 or not pictures[scene]:
                held = example_of(truths[scene] + pictures[scene])
                raise InputError(
                    f"{held}: scene {scene} of VDS has {len(pictures[scene])} pictures and {len(truths[scene])} {TRUTH_SUFFIX} files; "
                    f"it must have at least one picture and one {TRUTH_SUFFIX}, for example {legal}"
                )
            coded = _exposed(scene, pictures[scene], exposure_ev)
            pairs.append(Pair(coded, truths[scene][0], scene, scene))
        super().__init__(pairs, partial(read_truth, normalise=normalise))


def read_truth(path: Path, normalise: str = "none") -> np.ndarray:
    """The light of an .hdr, (H, W, 3) float32, at least 0; "peak": divided by its largest value. InputError when it cannot be read."""
    light = np.maximum(read_light(path), 0.0)
    if normalise == "none":
        return light
    peak = light.max()
    if peak <= 0:
        raise InputError(f"{path}: holds no light, every pixel is 0; it has no peak to divide by.")
    return light / peak


def _find(folder: Path, split: str) -> tuple[Scenes, Scenes, str]:
    """Scene -> its pictures, scene -> its truths, and an example of legal names. InputError when there is nothing."""
    names = [name.format(split.lower()) for name in SPLIT_FOLDERS]
    legal = f"{folder}/{split}_set/t1/t1_0EV_true.jpg.png with {folder}/{split}_hdr_set/t1/target_hdr.hdr"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; looked there for VDS, legal names are {legal}")
    roots = [root for root in sorted(folder.iterdir()) if root.is_dir() and root.name.lower() in names]
    if not roots:
        beside = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())[:8]) or "no folder"
        raise InputError(f"{folder}: none of {', '.join(names)} is in it, it holds {beside}; legal names are {legal}")
    pictures, truths = defaultdict(list), defaultdict(list)
    others = 0
    for root in roots:
        for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")):
            suffix = path.suffix.lower()
            if suffix == TRUTH_SUFFIX:
                truths[_scene(path, root)].append(path)
            elif suffix in PICTURE_SUFFIXES:
                pictures[_scene(path, root)].append(path)
            else:
                others += 1
    if not pictures or not truths:
        counts = [sum(map(len, files.values())) for files in (pictures, truths)]
        raise InputError(
            f"{', '.join(map(str, roots))}: {counts[0]} pictures ({', '.join(PICTURE_SUFFIXES)}), {counts[1]} {TRUTH_SUFFIX} files and "
            f"{others} others found; VDS needs both, legal names are {legal}"
        )
    return pictures, truths, legal


def _scene(path: Path, root: Path) -> str:
    """The scene that a file belongs to. InputError when the file's name says another one than its folder's."""
    bare, named = _bare(path), EXPOSURE.fullmatch(_bare(path))
    if path.parent == root or path.parent.name.lower() in SHARED_FOLDERS:
        return named["scene"] if named else bare
    scene = path.parent.name
    if named and named["scene"] != scene:
        raise InputError(
            f"{path}: its name says scene {named['scene']}, its folder {scene}; a legal name is {scene}_0EV_true.jpg.png"
        )
    return scene


def _exposed(scene: str, pictures: list[Path], exposure_ev: float) -> Path:
    """The picture of one exposure; a scene's only picture needs none in its name."""
    named = {path: EXPOSURE.fullmatch(_bare(path)) for path in pictures}
    nameless = [path for path, match in named.items() if not match]
    if nameless and len(pictures) > 1:
        raise InputError(
            f"{example_of(nameless)}: scene {scene} has {len(pictures)} pictures, so that each must say its exposure in its name; "
            f"a legal one is {scene}_0EV_true.jpg.png"
        )
    if nameless:
        return pictures[0]
    fitting = [path for path, match in named.items() if float(match["ev"]) == exposure_ev]
    if len(fitting) != 1:
        held = ", ".join(sorted((match["ev"] for match in named.values()), key=float))
        raise InputError(
            f"{example_of(pictures)}: scene {scene} has {len(fitting)} pictures of {exposure_ev:g} EV, it must have one; it holds {held} EV."
        )
    return fitting[0]


def _bare(path: Path) -> str:
    """A file's name without its suffixes of pictures (t1_0EV_true.jpg.png has two)."""
    while path.suffix.lower() in (*PICTURE_SUFFIXES, TRUTH_SUFFIX):
        path = path.with_suffix("")
    return path.name


def _natural(name: str) -> list[tuple[bool, int | str]]:
    """Sorting key that counts: t2 before t10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", name)]
