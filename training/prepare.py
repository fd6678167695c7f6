"""Prepare: render pairs of camera pictures and true light from HDR scenes, once, into shards for training and validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from datasets.sample import Sample
from pipeline.errors import InputError
from training.camera import BENCH_SHOT, random_shot, shoot
from training.scenes import Scene, find_scenes, random_view, read_scene
from training.shards import SUFFIX, write_shard

SIZES = ((216, 384), (270, 480), (270, 480), (360, 640))
"""(height, width) that training frames are rendered at; shards hold one size each."""

NOTE = "prepare.json"
VERSION = 3
"""Of the rendering: shards of one are not those of another."""

SCENES_IN_MEMORY = 128

VALIDATION_SIZE = (270, 480)
FRAMES_PER_SHARD = {216: 144, 270: 96, 360: 54}
"""Height -> frames of a shard; with these the largest came to 52 MiB."""

HELD_OUT = (
    "gkj_kloppenheim_05_1k",
    "gkj_modern_buildings_2_1k",
    "hdrify_pedestrian_overpass_1k",
    "pmndrs_bridge",
    "raylib_dresden_square_1k",
    "threlte_industrial_sunset_puresky_1k",
    "threlte_shanghai_riverside_1k",
    "waymoviz_blaubeuren_night_1k",
)
"""Scenes of `hdr_train` that no shipped checkpoint was trained on; they choose it. None is another's double under another name."""


def prepare(
    scenes: Path,
    output: Path,
    frames: int,
    validation_views: int,
    seed: int,
    held_out: tuple[str, ...],
    progress: Callable[[int], None],
) -> dict[str, int]:
    """Render `frames` training frames, as many of each scene as of any other, into output/train, and `validation_views` of each
    held-out scene, shot as the bench shoots, into output/validation. What is there already is kept, shard by shard: the same
    arguments give the same bytes, so a run that was stopped goes on. `progress` is told
    how many more training frames are done.

    Where none of the names in `held_out` is among the scenes, every eighth scene is held out.

    Returns how many frames and bytes of each kind there are. InputError when the scenes cannot be read.
    """
    kept, held = split(find_scenes(scenes), held_out)
    _check_same(output, scenes, kept, held, (frames, validation_views, seed))
    sums = {
        "train_frames": frames,
        "train_bytes": 0,
        "validation_frames": validation_views * len(held),
        "validation_bytes": 0,
    }
    read = lru_cache(SCENES_IN_MEMORY)(read_scene)
    for number, (size, members) in enumerate(_plan(len(kept), frames, seed)):
        path = output / "train" / f"{number:03d}{SUFFIX}"
        if not path.exists():
            write_shard(path, [_training_sample(read(kept[s]), size, seed, index) for index, s in members])
        progress(len(members))
        sums["train_bytes"] += path.stat().st_size
    for number, scene in enumerate(held):
        path = output / "validation" / f"{number:03d}{SUFFIX}"
        if not path.exists():
            write_shard(path, [_validation_sample(read(scene), seed, view) for view in range(validation_views)])
        sums["validation_bytes"] += path.stat().st_size
    return sums


def _check_same(output: Path, scenes: Path, kept: list[Path], held: list[Path], numbers: tuple[int, int, int]) -> None:
    """Note what the shards of a folder are rendered from; refuse to mix them with others."""
    facts = {
        "version": VERSION,
        "train": {path.name: path.stat().st_size for path in kept},
        "validation": {path.name: path.stat().st_size for path in held},
        "frames, views, seed": list(numbers),
    }
    note = output / NOTE
    try:
        if note.exists() and json.loads(note.read_text()) != facts:
            raise InputError(
                f"{output}: holds shards that were rendered from other scenes or with other settings; name another --output."
            )
        for part in ("train", "validation"):
            (output / part).mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(facts, indent=1) + "\n")
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{output}: shards of {scenes} cannot be written there ({error}).") from error


def split(paths: list[Path], held_out: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    """Scenes to train on and scenes to validate on: those named, or every eighth where none of the names is there.

    InputError when one of the two would be empty.
    """
    held = [path for path in paths if path.stem in held_out] or paths[::8]
    kept = [path for path in paths if path not in held]
    if not kept:
        raise InputError(
            f"{paths[0].parent}: holds {len(paths)} scene(s); training and validation need one each at least."
        )
    return kept, held


def _plan(scenes: int, frames: int, seed: int) -> list[tuple[tuple[int, int], list[tuple[int, int]]]]:
    """Shards: their frame size, and (frame, scene) of each frame. Scenes take turns, so every shard holds nearly all of them."""
    order = np.random.default_rng([seed, 1]).permutation(scenes)
    shards, index = [], 0
    while index < frames:
        size = SIZES[len(shards) % len(SIZES)]
        count = min(FRAMES_PER_SHARD[size[0]], frames - index)
        shards.append((size, [(i, int(order[i % scenes])) for i in range(index, index + count)]))
        index += count
    return shards


def _training_sample(scene: Scene, size: tuple[int, int], seed: int, index: int) -> Sample:
    rng = np.random.default_rng([seed, 2, index])
    coded, truth = shoot(random_view(scene, *size, rng), random_shot(rng), rng)
    return Sample(coded, truth, f"{scene.name}:{index}", scene.name)


def _validation_sample(scene: Scene, seed: int, view: int) -> Sample:
    rng = np.random.default_rng([seed, 3, view])
    coded, truth = shoot(random_view(scene, *VALIDATION_SIZE, rng), BENCH_SHOT, rng)
    return Sample(coded, truth, f"{scene.name}:{view}", scene.name)
