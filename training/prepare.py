"""Prepare: render pairs of camera pictures and true light from HDR scenes, once, into shards for training and validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from training.camera import BENCH_SHOT, random_shot, shoot
from training.sample import Sample
from training.scenes import Scene, find_scenes, random_view, read_scene
from training.shards import MAX_BYTES, SUFFIX, write_shard

SIZES = ((216, 384), (270, 480), (270, 480), (360, 640))
"""(height, width) that training frames are rendered at; shards hold one size each."""

VALIDATION_SIZE = (270, 480)
FRAMES_PER_SHARD = {216: 144, 270: 96, 360: 54}
"""Height -> frames of a shard; with these the largest came to 52 MiB."""

HELD_OUT = (
    "blender_city",
    "gkj_kloppenheim_05_1k",
    "gkj_modern_buildings_2_1k",
    "hdrify_pedestrian_overpass_1k",
    "pmndrs_bridge",
    "pmndrs_esplanade",
    "raylib_dresden_square_1k",
    "realism_spree_bank_1k",
    "threlte_industrial_sunset_puresky_1k",
    "threlte_shanghai_riverside_1k",
    "tres_outdoor_umbrellas_1k",
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
    plan = _plan(len(kept), frames, seed)
    sums = {"train_frames": 0, "train_bytes": 0, "validation_frames": 0, "validation_bytes": 0}
    cache: dict[Path, Scene] = {}

    def scene(path: Path) -> Scene:
        if path not in cache:
            cache[path] = read_scene(path)
        return cache[path]

    for number, (size, members) in enumerate(plan):
        path = output / "train" / f"{number:03d}{SUFFIX}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_shard(path, [_training_sample(scene(kept[s]), size, seed, index) for index, s in members])
        progress(len(members))
        sums["train_frames"] += len(members)
        sums["train_bytes"] += path.stat().st_size
    for number, path in enumerate(held):
        shard = output / "validation" / f"{number:03d}{SUFFIX}"
        if not shard.exists():
            shard.parent.mkdir(parents=True, exist_ok=True)
            write_shard(shard, [_validation_sample(scene(path), seed, view) for view in range(validation_views)])
        sums["validation_frames"] += validation_views
        sums["validation_bytes"] += shard.stat().st_size
    _refuse_large(output)
    return sums


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


def _refuse_large(output: Path) -> None:
    for path in output.rglob(f"*{SUFFIX}"):
        if path.stat().st_size > MAX_BYTES:
            raise RuntimeError(f"{path}: {path.stat().st_size} bytes, above the limit of {MAX_BYTES} for a shard")
