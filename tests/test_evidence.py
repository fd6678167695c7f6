"""pipeline.evidence: hashes against sha256sum, counts against the frames', bytes that never change."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import load_config, result_settings
from pipeline import evidence, frame_stats
from pipeline.errors import InputError

PLAN = {"identity": "ab", "settings_hash": "cd", "numerics_class": "cpu-x", "precision": "fp32", "stages": ["grade"]}
MODEL = {"name": "tiny", "sha256": "12", "restores_highlights": True}


def sha256sum(data: bytes) -> str:
    """By coreutils, not by Python."""
    return subprocess.run(["sha256sum"], input=data, check=True, capture_output=True).stdout.split()[0].decode()


def make(folder: Path, *, repeated: tuple[int, ...] = (), beside: tuple[str, ...] = ()) -> dict[str, Any]:
    folder.mkdir()
    for name in ("drive.mp4", "drive_hdr.mp4", *beside):
        (folder / name).write_bytes(name.encode() * 1000)
    rows = np.zeros(4, frame_stats.TABLE)
    rows["frame"] = np.arange(4)
    rows["restored_share"] = [0, 0.5, 30 / 6144, 1 / 3]
    track = evidence.TrackEvidence(0, "hash", 96, 64, 2, repeated, 1, 0, rows)
    return evidence.manifest(
        folder / "drive.mp4",
        folder / "drive_hdr.mp4",
        model=MODEL,
        settings=result_settings(load_config("preview")),
        plan=PLAN,
        tracks=[track],
        beside={name: folder / name for name in beside},
    )


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    facts = make(tmp_path / "a", beside=("mask.mp4",))
    for place, name in (("source", "drive.mp4"), ("result", "drive_hdr.mp4")):
        data = (tmp_path / "a" / name).read_bytes()
        assert facts[place] == {"name": name, "bytes": len(data), "sha256": sha256sum(data)}
    assert facts["beside"]["mask.mp4"]["sha256"] == sha256sum((tmp_path / "a" / "mask.mp4").read_bytes())
    settings = evidence.canonical(facts["config"]["settings"])
    assert facts["config"]["sha256"] == sha256sum(settings.encode())


def test_frames_and_restored_pixels_are_counted(tmp_path: Path) -> None:
    (track,) = make(tmp_path / "a", repeated=(3, 1))["tracks"]
    assert track["frames"] == 4
    assert track["spans"] == 2
    assert track["repeated_frames"] == [1, 3]
    assert track["restored_pixels"] == 3072 + 30 + 2048
    assert track["restored_share"] == pytest.approx(5150 / (4 * 6144), abs=1e-9)
    assert track["largest_restored_share_of_a_frame"] == 0.5
    assert track["frames_with_restored_pixels"] == 3


def test_the_same_conversion_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    texts = []
    for name in ("here", "there"):
        facts = make(tmp_path / name)
        path = evidence.write_manifest(tmp_path / name / "drive_hdr.mp4", facts)
        assert path.name == "drive_hdr.evidence.json"
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]
    assert str(tmp_path).encode() not in texts[0]
    assert json.loads(texts[0]) == facts
    assert not list(tmp_path.glob("*/*.part"))


def test_any_other_byte_changes_the_manifest(tmp_path: Path) -> None:
    make(tmp_path / "a")
    folder = tmp_path / "a"
    before = evidence.manifest(
        folder / "drive.mp4", folder / "drive_hdr.mp4", model=MODEL, settings={"a": 1}, plan=PLAN, tracks=[], beside={}
    )
    (folder / "drive.mp4").write_bytes(b"other")
    after = evidence.manifest(
        folder / "drive.mp4", folder / "drive_hdr.mp4", model=MODEL, settings={"a": 2}, plan=PLAN, tracks=[], beside={}
    )
    assert before["source"] != after["source"]
    assert before["config"]["sha256"] != after["config"]["sha256"]
    assert before["result"] == after["result"]


def test_canonical_text_does_not_follow_the_order_of_keys() -> None:
    assert evidence.canonical({"b": 1, "a": {"d": 0.1, "c": "ä"}}) == evidence.canonical(
        {"a": {"c": "ä", "d": 0.1}, "b": 1}
    )
    with pytest.raises(ValueError, match="JSON compliant"):
        evidence.canonical({"a": float("nan")})


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read for the evidence manifest"):
        evidence.manifest(
            tmp_path / "no.mp4", tmp_path / "no2.mp4", model=MODEL, settings={}, plan=PLAN, tracks=[], beside={}
        )
