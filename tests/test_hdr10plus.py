"""pipeline.hdr10plus against a reading of hdr10plus_tool's own rules (hdr10plus_rules.py), and through FFmpeg's HDR10+ parser."""

from __future__ import annotations

import copy
import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import frame_stats, hdr10plus
from pipeline.errors import ConversionError, InputError
from tests.hdr10plus_rules import Refused, judge

LUMINANCE = {
    "AverageRGB": 1037,
    "LuminanceDistributions": {
        "DistributionIndex": [1, 5, 10, 25, 50, 75, 90, 95, 99],
        "DistributionValues": [3, 14024, 43, 56, 219, 1036, 2714, 4668, 14445],
    },
    "MaxScl": [17830, 16895, 14252],
}
SAMPLE = {
    "JSONInfo": {"HDR10plusProfile": "A", "Version": "1.0"},
    "SceneInfo": [
        {
            "LuminanceParameters": LUMINANCE,
            "NumberOfWindows": 1,
            "TargetedSystemDisplayMaximumLuminance": 0,
            "SceneFrameIndex": number,
            "SceneId": 0,
            "SequenceFrameIndex": number,
        }
        for number in range(3)
    ],
    "SceneInfoSummary": {"SceneFirstFrameIndex": [0], "SceneFrameNumbers": [3]},
    "ToolInfo": {"Tool": "hdr10plus_tool", "Version": "1.4.0"},
}
"""The first three frames of the tool's assets/hevc_tests/regular_metadata.json, as it writes them itself."""


PROFILE_B = {
    "BezierCurveData": {"Anchors": [143, 298, 447, 592, 731, 864, 891, 917, 938], "KneePointX": 164, "KneePointY": 240},
    "LuminanceParameters": LUMINANCE,
    "NumberOfWindows": 1,
    "TargetedSystemDisplayMaximumLuminance": 400,
    "SceneFrameIndex": 0,
    "SceneId": 0,
    "SequenceFrameIndex": 0,
}
"""A frame with the tone curve of the tool's assets/hevc_tests/single-frame-metadata.json."""


def rows(*falls_nits: float) -> np.ndarray:
    """Frames whose pixels lie around these averages."""
    table = np.zeros(len(falls_nits), frame_stats.TABLE)
    table["frame"] = np.arange(len(falls_nits))
    for row, fall in zip(table, falls_nits, strict=True):
        row["fall_nits"] = fall
        row["percentiles_nits"] = [fall * factor for factor in (0.1, 0.5, 1, 1.5, 2, 3, 6, 7)]
        row["max_scl_nits"] = [fall * 8, fall * 7.5, fall * 9]
        row["max_cll_nits"] = fall * 9
        row["upto_100_nits_share"] = 0.5
    return table


def changed(path: str, value: Any) -> str:  # noqa: ANN401
    """SAMPLE's text with one value replaced, or removed where it is None. path: "SceneInfo.0.SceneId"."""
    whole = copy.deepcopy(SAMPLE)
    *way, last = (int(step) if step.isdigit() else step for step in path.split("."))
    parent: Any = whole
    for step in way:
        parent = parent[step]
    if value is None:
        del parent[last]
    else:
        parent[last] = value
    return json.dumps(whole)


def test_the_judge_accepts_what_the_tool_wrote() -> None:
    assert len(judge(json.dumps(SAMPLE), 3)) == 3
    assert len(judge(changed("JSONInfo.extra", "passed over"), 3)) == 3
    b = SAMPLE | {"JSONInfo": {"HDR10plusProfile": "B", "Version": "1.0"}, "SceneInfo": [PROFILE_B]}
    assert (
        len(judge(json.dumps(b | {"SceneInfoSummary": {"SceneFirstFrameIndex": [0], "SceneFrameNumbers": [1]}}), 1))
        == 1
    )
    ten = json.dumps(SAMPLE).replace("95, 99]", "95, 98, 99]").replace("4668, 14445]", "4668, 9000, 14445]")
    assert len(judge(ten, 3)) == 3


LIGHT = "SceneInfo.0.LuminanceParameters"
REQUIRED = [
    *SAMPLE,
    "JSONInfo.HDR10plusProfile",
    "JSONInfo.Version",
    "ToolInfo.Tool",
    "ToolInfo.Version",
    *(f"SceneInfoSummary.{name}" for name in SAMPLE["SceneInfoSummary"]),
    *(f"SceneInfo.1.{name}" for name in SAMPLE["SceneInfo"][1]),
    *(f"{LIGHT}.{name}" for name in LUMINANCE),
    *(f"{LIGHT}.LuminanceDistributions.{name}" for name in LUMINANCE["LuminanceDistributions"]),
]
WRONG = [
    *((path, None) for path in REQUIRED),
    ("JSONInfo.HDR10plusProfile", "B"),
    ("JSONInfo.Version", "2.0"),
    ("JSONInfo.Version", 1.0),
    ("SceneInfo", []),
    ("SceneInfo.0.NumberOfWindows", 2),
    ("SceneInfo.0.TargetedSystemDisplayMaximumLuminance", 400),
    ("SceneInfo.0.BezierCurveData", PROFILE_B["BezierCurveData"]),
    ("SceneInfo.2", PROFILE_B | {"BezierCurveData": {"Anchors": [1024], "KneePointX": 0, "KneePointY": 0}}),
    (f"{LIGHT}.AverageRGB", 1037.0),
    (f"{LIGHT}.AverageRGB", True),
    (f"{LIGHT}.AverageRGB", "1037"),
    (f"{LIGHT}.AverageRGB", -1),
    (f"{LIGHT}.AverageRGB", 100_001),
    (f"{LIGHT}.MaxScl", [1, 2]),
    (f"{LIGHT}.MaxScl.2", 100_001),
    (f"{LIGHT}.LuminanceDistributions.DistributionIndex.1", 6),
    (f"{LIGHT}.LuminanceDistributions.DistributionIndex", [1, 5, 10]),
    (f"{LIGHT}.LuminanceDistributions.DistributionValues", [1, 2, 3]),
    (f"{LIGHT}.LuminanceDistributions.DistributionValues.8", 100_001),
    ("SceneInfo.1.SceneFrameIndex", 0),
    ("SceneInfo.1.SceneId", 1),
    ("SceneInfo.1.SequenceFrameIndex", 2),
    ("SceneInfoSummary.SceneFirstFrameIndex", [1]),
    ("SceneInfoSummary.SceneFrameNumbers", [2]),
    ("SceneInfoSummary.SceneFrameNumbers", [3.0]),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda one: str(one)[:40])
def test_the_judge_finds_what_is_wrong(path: str, value: object) -> None:
    with pytest.raises(Refused):
        judge(changed(path, value), 3)


def test_the_judge_counts_frames_and_refuses_a_field_that_stands_twice() -> None:
    with pytest.raises(Refused, match="as many entries"):
        judge(json.dumps(SAMPLE), 4)
    with pytest.raises(Refused, match="twice"):
        judge(json.dumps(SAMPLE).replace('"SceneId": 0', '"SceneId": 0, "SceneId": 0', 1), 3)


def test_keys_and_their_nesting_are_those_of_the_tools_own_file() -> None:
    def shape(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {key: shape(one) for key, one in value.items()}
        return [shape(value[0])] if isinstance(value, list) else type(value).__name__

    assert shape(hdr10plus.document(rows(10, 10))) == shape(SAMPLE)


def test_figures_are_in_tenths_of_a_nit_and_a_percentage() -> None:
    light = hdr10plus.document(rows(20))["SceneInfo"][0]["LuminanceParameters"]
    assert light["AverageRGB"] == 200
    assert light["MaxScl"] == [1600, 1500, 1800]
    assert light["LuminanceDistributions"]["DistributionValues"] == [20, 1400, 50, 100, 200, 300, 400, 600, 1200]


def test_a_scene_has_the_largest_peaks_and_the_mean_of_the_rest() -> None:
    frames = hdr10plus.document(rows(20, 30), scene_starts=[0])["SceneInfo"]
    assert frames[0]["LuminanceParameters"] == frames[1]["LuminanceParameters"]
    light = frames[0]["LuminanceParameters"]
    assert light["AverageRGB"] == 250
    assert light["MaxScl"] == [2400, 2250, 2700]
    assert light["LuminanceDistributions"]["DistributionValues"] == [25, 2100, 50, 125, 250, 375, 500, 750, 1800]


def test_scenes_follow_the_light_and_not_its_noise() -> None:
    assert hdr10plus.light_scenes(rows(*[20.0, 21.0, 19.5] * 5)) == (0,)
    assert hdr10plus.light_scenes(rows(20, 20, 60, 60, 20)) == (0, 2, 4)
    assert hdr10plus.light_scenes(rows(0.01, 0.05, 0.02, 0.3)) == (0,)
    slow = hdr10plus.light_scenes(rows(*(20 * 1.05**number for number in range(40))))
    assert len(slow) > 3
    assert min(np.diff(slow)) > 5


@given(st.lists(st.floats(0, 9999), min_size=1, max_size=12))
def test_any_light_makes_a_file_that_the_tools_rules_accept(falls: list[float]) -> None:
    assert judge(json.dumps(hdr10plus.document(rows(*falls))), len(falls))
    every = hdr10plus.document(rows(*falls), scene_starts=range(len(falls)))
    assert judge(json.dumps(every), len(falls))


def test_the_file_is_written_whole_and_the_same_each_time(tmp_path: Path) -> None:
    first = hdr10plus.write_json(tmp_path / "a.json", rows(20, 60), transfer="pq")
    second = hdr10plus.write_json(tmp_path / "b.json", rows(20, 60), transfer="pq")
    assert first.read_bytes() == second.read_bytes()
    assert len(judge(first.read_text(), 2)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_the_file_lies_beside_the_result() -> None:
    assert hdr10plus.json_path(Path("a/drive.mkv")) == Path("a/drive.hdr10plus.json")
    assert hdr10plus.json_path(Path("drive.mkv"), 2) == Path("drive.2.hdr10plus.json")


def test_what_cannot_be_described_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="for PQ video"):
        hdr10plus.write_json(tmp_path / "a.json", rows(20), transfer="hlg")
    with pytest.raises(ConversionError, match="no frame statistics"):
        hdr10plus.document(rows())
    for starts in ([], [1], [0, 0], [0, 2]):
        with pytest.raises(ValueError, match="rise from 0"):
            hdr10plus.document(rows(20, 20), scene_starts=starts)


def test_ffmpeg_reads_the_same_light_from_the_message_that_the_tool_would_write(tmp_path: Path) -> None:
    (frame,) = judge(json.dumps(hdr10plus.document(rows(87.5))), 1)
    clip, made = tmp_path / "plain.hevc", tmp_path / "plus.hevc"
    picture = ["-f", "lavfi", "-i", "color=gray:size=64x64:rate=25", "-frames:v", "1"]
    encode = ["-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-x265-params", "log-level=none"]
    subprocess.run(["ffmpeg", "-v", "error", *picture, *encode, clip], check=True)
    data = clip.read_bytes()
    picture_at = data.rindex(b"\x00\x00\x01")
    made.write_bytes(data[:picture_at] + sei(frame) + data[picture_at:])
    probe = ["ffprobe", "-v", "error", "-show_frames", "-of", "default=noprint_wrappers=1", made]
    told = subprocess.run(probe, check=True, capture_output=True, text=True).stdout.splitlines()
    pairs = [line.split("=", 1) for line in told]
    assert ["side_data_type", "HDR Dynamic Metadata SMPTE2094-40 (HDR10+)"] in pairs

    def tenths(name: str) -> list[Fraction]:
        """FFmpeg's fractions are of 10000 nits (libavutil/hdr_dynamic_metadata.h): times 100000 they are tenths of a nit."""
        return [100_000 * Fraction(value) for found, value in pairs if found == name]

    light = frame["LuminanceParameters"]
    shares = light["LuminanceDistributions"]
    assert tenths("maxscl") == light["MaxScl"]
    assert tenths("average_maxrgb") == [light["AverageRGB"]]
    assert tenths("distribution_maxrgb_percentile") == shares["DistributionValues"]
    percentages = [int(value) for name, value in pairs if name == "distribution_maxrgb_percentage"]
    assert percentages == shares["DistributionIndex"]


def sei(frame: dict[str, Any]) -> bytes:
    """One frame as an HEVC prefix SEI of ITU-T T.35 user data: the fields of ST 2094-40 in their order and widths."""
    light = frame["LuminanceParameters"]
    shares = light["LuminanceDistributions"]
    fields = [(0xB5, 8), (0x3C, 16), (1, 16), (4, 8), (1, 8), (frame["NumberOfWindows"], 2)]
    fields += [(frame["TargetedSystemDisplayMaximumLuminance"], 27), (0, 1)]
    fields += [(value, 17) for value in (*light["MaxScl"], light["AverageRGB"])]
    fields += [(len(shares["DistributionIndex"]), 4)]
    for index, value in zip(shares["DistributionIndex"], shares["DistributionValues"], strict=True):
        fields += [(index, 7), (value, 17)]
    fields += [(0, 10), (0, 1), (0, 1), (0, 1)]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "0" * (-len(bits) % 8)
    payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
    body = bytes([39 << 1, 1, 4, len(payload)]) + payload + b"\x80"
    safe = bytearray()
    for byte in body:
        if safe[-2:] == b"\x00\x00" and byte <= 3:
            safe.append(3)
        safe.append(byte)
    return b"\x00\x00\x01" + bytes(safe)
