"""An independent judge of HDR10+ JSON: the rules of hdr10plus_tool (quietvoid) as its public source states them, field by field.

The tool itself is in none of the registries that this project can reach, so it was not run. Read were, of github.com/quietvoid/hdr10plus_tool:
hdr10plus/src/metadata_json.rs (the types behind the JSON, TryFrom, generate_json, compute_scene_information) and hdr10plus/src/metadata.rs
(validate, set_profile) at commits 0699d995 and, the same in all that counts here, d933aabb and 2957e734; src/commands/inject.rs at 191d5dcc
(frames are taken by their place in the list, in display order; an empty list is an error; a list of another length than the video's is
stretched or cut with a warning); and of assets/hevc_tests the files regular_metadata.json, metadata-dhdr10-opt.json (profile A) and
single-frame-metadata.json (profile B), all at 31cfb944 and 05328be1.
"""

from __future__ import annotations

import json
from typing import Any

TOP = 100_000
INDEXES = ([1, 5, 10, 25, 50, 75, 90, 95, 99], [1, 5, 10, 25, 50, 75, 90, 95, 98, 99])
SECTIONS = ("JSONInfo", "SceneInfo", "SceneInfoSummary", "ToolInfo")
FRAME_NUMBERS = ("SceneFrameIndex", "SceneId", "SequenceFrameIndex")


class Refused(Exception):
    """What the tool would not read, not encode, or call otherwise than the file does."""


def check(fine: object, why: str) -> None:
    if not fine:
        raise Refused(why)


def field(parent: Any, name: str) -> Any:  # noqa: ANN401
    """A required field: every one is but BezierCurveData. Unknown fields are passed over."""
    check(isinstance(parent, dict), f"no object around {name}")
    check(name in parent, f"missing field {name}")
    return parent[name]


def unsigned(value: Any, bits: int, name: str) -> int:  # noqa: ANN401
    """A JSON number that is read into an unsigned integer of so many bits: 1.0, -1, "1" or true are refused."""
    check(type(value) is int, f"{name} is no integer")
    check(0 <= value < 1 << bits, f"{name} does not fit {bits} bits")
    return value


def unsigned_list(value: Any, bits: int, name: str) -> list[int]:  # noqa: ANN401
    check(isinstance(value, list), f"{name} is no list")
    return [unsigned(one, bits, name) for one in value]


def text(parent: Any, name: str) -> str:  # noqa: ANN401
    value = field(parent, name)
    check(isinstance(value, str), f"{name} is no text")
    return value


def judge(document: str, frames: int) -> list[dict[str, Any]]:
    """The entries of SceneInfo. document: the file's text; frames: of the video.

    Raises Refused where the tool would refuse to read or to inject it with its validation on, where it would write other numbers of scenes or
    another profile for the same figures, or where it would warn of another length.
    """
    root = json.loads(document, object_pairs_hook=_no_doubles, parse_constant=_no_constant)
    for section in SECTIONS:
        field(root, section)
    claimed = text(root["JSONInfo"], "HDR10plusProfile"), text(root["JSONInfo"], "Version")
    text(root["ToolInfo"], "Tool"), text(root["ToolInfo"], "Version")
    entries = root["SceneInfo"]
    check(isinstance(entries, list) and entries, "empty SceneInfo")
    profiles = {_judge_frame(entry) for entry in entries}
    check(claimed == (profiles.pop() if len(profiles) == 1 else "N/A", "1.0"), "the profile or version is another")
    check(len(entries) == frames, "as many entries as the video has frames")
    firsts = _judge_scenes(entries, claimed[0])
    lengths = [end - start for start, end in zip(firsts, [*firsts[1:], frames], strict=True)]
    names = ("SceneFirstFrameIndex", "SceneFrameNumbers")
    told = [unsigned_list(field(root["SceneInfoSummary"], name), 64, name) for name in names]
    check(told == [firsts, lengths], "the summary is of other scenes")
    return entries


def _judge_frame(entry: Any) -> str:  # noqa: ANN401
    """Types, then ranges, of one entry; its profile."""
    light = field(entry, "LuminanceParameters")
    average = unsigned(field(light, "AverageRGB"), 32, "AverageRGB")
    largest = unsigned_list(field(light, "MaxScl"), 32, "MaxScl")
    shares = field(light, "LuminanceDistributions")
    index = unsigned_list(field(shares, "DistributionIndex"), 8, "DistributionIndex")
    values = unsigned_list(field(shares, "DistributionValues"), 32, "DistributionValues")
    windows = unsigned(field(entry, "NumberOfWindows"), 8, "NumberOfWindows")
    display = field(entry, "TargetedSystemDisplayMaximumLuminance")
    display = unsigned(display, 32, "TargetedSystemDisplayMaximumLuminance")
    for name in FRAME_NUMBERS:
        unsigned(field(entry, name), 64, name)
    curve = entry.get("BezierCurveData")
    check(windows == 1, "NumberOfWindows is 1 in version 1")
    check(len(largest) == 3, "MaxScl has three values")
    check(index in INDEXES, "DistributionIndex has its 9 or 10 numbers")
    check(len(values) == len(index), "a value for each index")
    check(max(average, *largest, *values) <= TOP, "light is at most 10000 nits")
    check(display <= 10_000, "the display is of at most 10000 nits")
    check((curve is None) == (display == 0), "a tone curve and its display go together")
    if curve is None:
        return "A"
    return "B" if _judge_curve(curve) else "N/A"


def _judge_curve(curve: Any) -> int:  # noqa: ANN401
    """How many anchors the tone curve has."""
    anchors = unsigned_list(field(curve, "Anchors"), 16, "Anchors")
    knee = [unsigned(field(curve, name), 16, name) for name in ("KneePointX", "KneePointY")]
    check(max(knee) <= 4095, "a knee point is of 12 bits")
    check(len(anchors) <= 9, "at most 9 anchors")
    check(all(anchor < 1024 for anchor in anchors), "an anchor is of 10 bits")
    return len(anchors)


def _judge_scenes(entries: list[dict[str, Any]], profile: str) -> list[int]:
    """The frames with which scenes begin. A scene lasts while the figures stay the same."""
    names = ["LuminanceParameters", "NumberOfWindows", "TargetedSystemDisplayMaximumLuminance"]
    names += ["BezierCurveData"] if profile == "B" else []
    firsts: list[int] = []
    for number, entry in enumerate(entries):
        if not number or any(entry.get(name) != entries[number - 1].get(name) for name in names):
            firsts.append(number)
        place = (number - firsts[-1], len(firsts) - 1, number)
        check(tuple(entry[name] for name in FRAME_NUMBERS) == place, f"frame {number} is numbered otherwise")
    return firsts


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    check(len(found) == len(pairs), "a field stands twice")
    return found


def _no_constant(name: str) -> None:
    raise Refused(f"{name} is no JSON")
