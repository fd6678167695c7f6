"""HDR10+ (SMPTE ST 2094-40, application 4 version 1) dynamic metadata as the JSON that hdr10plus_tool reads.

Layout: hdr10plus_tool (quietvoid), hdr10plus/src/metadata_json.rs, and its assets/hevc_tests/regular_metadata.json. Profile A: what the light of
each scene is, measured; profile B adds a tone curve that somebody has chosen for a display, and nobody has here. Light is in tenths of a nit.

The nine DistributionIndex numbers are fixed (the tool's validate()), and two of them are names and not percentiles: 5 stands for
DistributionY99, the scene's largest 99.99th percentile; 10 for DistributionY100nit, the percentage of pixels of at most 100 nits; and
99 holds the 99.98th percentile. The names are those that display vendors' drivers comment these fields with; that Y99 is the 99.99th
percentile is how the generator awsmfunc (OpusGang) has it: the standard's own text was not at hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encode import publish
from pipeline.errors import ConversionError, InputError
from pipeline.frame_stats import PERCENTILES
from pipeline.version import VERSION

SUFFIX = ".hdr10plus.json"
DISTRIBUTION_INDEX = (1, 5, 10, 25, 50, 75, 90, 95, 99)
SCENE_STOPS = 0.5
"""A new scene begins with the frame whose average light is this far from that of the scene's first frame."""

TOP = 100_000
"""10000 nits in tenths; the tool refuses more."""


def light_scenes(stats: np.ndarray) -> tuple[int, ...]:
    """Numbers of the frames with which scenes begin, from the light alone: (F,) rows of frame_stats.TABLE, a whole track.

    HDR10+ wants metadata that stays the same while the light does: a display that gets other figures with every frame
    may pump. So a scene lasts until the average of max(R, G, B) has moved by SCENE_STOPS; a cut between pictures that are equally bright
    needs no new figures. One nit is added to both sides, so that night noise makes no scenes.
    """
    stops = np.log2(stats["fall_nits"] + 1.0)
    starts: list[int] = []
    for number, value in enumerate(stops):
        if not starts or abs(value - stops[starts[-1]]) > SCENE_STOPS:
            starts.append(number)
    return tuple(starts)


def document(stats: np.ndarray, scene_starts: Sequence[int] | None = None) -> dict[str, Any]:
    """The JSON document as plain data, one SceneInfo entry a frame in display order.

    stats: (F,) rows of frame_stats.TABLE, a whole track; scene_starts: numbers of the frames with which scenes begin, the first 0; None =
    `light_scenes`. Within a scene all frames carry the same figures: the largest of MaxScl and of the 99.98th and 99.99th percentile,
    the mean of the others. Neighbouring scenes of equal figures are one, as the tool counts them when it reads a video.
    Raises ConversionError without frames, ValueError for starts that are not rising from 0.
    """
    if not len(stats):
        raise ConversionError("HDR10+: there are no frame statistics, so there is nothing to describe.")
    starts = list(light_scenes(stats) if scene_starts is None else scene_starts)
    if starts[:1] != [0] or starts[-1] >= len(stats) or any(b <= a for a, b in pairwise(starts)):
        raise ValueError(f"scenes start at {starts}; they must rise from 0 and stay below {len(stats)}")
    entries: list[dict[str, Any]] = []
    firsts: list[int] = []
    light: dict[str, Any] = {}
    for start, end in zip(starts, [*starts[1:], len(stats)], strict=True):
        own = _luminance(stats[start:end])
        if own != light:
            firsts.append(start)
            light = own
        for number in range(start, end):
            entries.append(
                {
                    "LuminanceParameters": light,
                    "NumberOfWindows": 1,
                    "TargetedSystemDisplayMaximumLuminance": 0,
                    "SceneFrameIndex": number - firsts[-1],
                    "SceneId": len(firsts) - 1,
                    "SequenceFrameIndex": number,
                }
            )
    return {
        "JSONInfo": {"HDR10plusProfile": "A", "Version": "1.0"},
        "SceneInfo": entries,
        "SceneInfoSummary": {
            "SceneFirstFrameIndex": firsts,
            "SceneFrameNumbers": np.diff([*firsts, len(stats)]).tolist(),
        },
        "ToolInfo": {"Tool": "sunvisor", "Version": VERSION},
    }


def json_path(result: Path, number: int = 0) -> Path:
    """drive_hdr.mp4 -> drive_hdr.hdr10plus.json; drive_hdr.1.hdr10plus.json and so on for further converted tracks."""
    return result.with_name(result.stem + (f".{number}" if number else "") + SUFFIX)


def write_json(path: Path, stats: np.ndarray, *, transfer: str, scene_starts: Sequence[int] | None = None) -> Path:
    """Write `document` to a file under a temporary name, sync, rename; the same statistics give the same bytes. Returns path.

    transfer: of the video that it describes. Raises InputError unless it is "pq" (HDR10+ tells absolute light), and as `document` does.
    """
    if transfer != "pq":
        raise InputError(f"{path}: HDR10+ metadata is for PQ video, and this is {transfer}; use output.transfer=pq.")
    partial = path.with_name(path.name + ".part")
    partial.write_text(_text(document(stats, scene_starts)), encoding="utf-8")
    publish(partial, path)
    return path


def _text(facts: dict[str, Any]) -> str:
    """JSON with a line for each frame: a third of the time and two thirds of the size that indenting everything takes (108000 frames)."""
    frames = ",\n".join(map(json.dumps, facts["SceneInfo"]))
    parts = [
        f'"{key}": ' + (f"[\n{frames}\n]" if key == "SceneInfo" else json.dumps(part)) for key, part in facts.items()
    ]
    return "{" + ",\n".join(parts) + "}\n"


def _luminance(scene: np.ndarray) -> dict[str, Any]:
    """LuminanceParameters of one scene: rows of frame_stats.TABLE, at least one."""
    values = dict(zip(PERCENTILES, scene["percentiles_nits"].mean(axis=0).tolist(), strict=True))
    for place in (9998, 9999):
        values[place] = float(scene["percentiles_nits"][:, PERCENTILES.index(place)].max())
    upto_100 = round(100 * float(scene["upto_100_nits_share"].mean()))
    return {
        "AverageRGB": _tenths(float(scene["fall_nits"].mean())),
        "LuminanceDistributions": {
            "DistributionIndex": list(DISTRIBUTION_INDEX),
            "DistributionValues": [
                _tenths(values[100]),
                _tenths(values[9999]),
                upto_100,
                *(_tenths(values[place]) for place in (2500, 5000, 7500, 9000, 9500, 9998)),
            ],
        },
        "MaxScl": [_tenths(nits) for nits in scene["max_scl_nits"].max(axis=0).tolist()],
    }


def _tenths(nits: float) -> int:
    return min(round(nits * 10), TOP)
