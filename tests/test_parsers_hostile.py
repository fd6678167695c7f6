"""Damaged bytes for every reader of ours: a result, or an error that callers catch; no other exception, no hang."""

from __future__ import annotations

import io
import json
import random
import time
from pathlib import Path

import pytest

from pipeline.bitstream_tags import av1_tags, hevc_parameter_units, hevc_tags
from pipeline.moov import track_tags
from pipeline.telemetry.manifest import FORMAT, manifest_path, read_manifest
from tests.camera_boxes import box
from tests.parser_attack import Reader, attack, example, make_readers

EXAMPLES = 300


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return make_readers(tmp_path_factory.mktemp("parsers"))


def test_no_reader_is_surprised(readers: dict[str, Reader]) -> None:
    wrong = [text for name, reader in readers.items() for text in attack(name, reader, EXAMPLES)]
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:10])


def test_healthy_seeds_are_read(readers: dict[str, Reader]) -> None:
    """Else the attack would only ever reach the first check."""
    assert readers["novatek"].read(readers["novatek"].seeds[0]) is not None
    for name in ("gpmf", "nmea", "moov"):
        assert all(readers[name].read(seed) for seed in readers[name].seeds), name
    for seed in readers["container tags"].seeds + readers["camera files"].seeds:
        readers["container tags"].read(seed)
    first, second = (readers["sample entries"].seeds[which] for which in (0, 1))
    assert first != second
    for name in ("HEVC units", "AV1 units"):
        _, found, *_ = readers[name].read(readers[name].seeds[0])  # type: ignore[misc]
        assert found.mastering is not None and found.light is not None, name


def test_an_attack_finds_a_bug() -> None:
    """The judge itself: a reader that trusts a length is told."""
    trusting = Reader((bytes(range(100)),), lambda data: data[data[0] + 50], ())
    assert any("IndexError" in text for text in attack("trusting", trusting, 100))
    assert example((b"seed" * 40,), random.Random(1)) == example((b"seed" * 40,), random.Random(1))


def test_a_chapter_reference_of_a_bad_length_is_passed_over() -> None:
    track = box(b"trak", box(b"tkhd", bytes(84)) + box(b"tref", box(b"chap", b"\0\0\0\2\0\0\0")))
    assert track_tags(io.BytesIO(box(b"moov", track))) == {}


def test_a_sequence_header_of_zeros_takes_no_time() -> None:
    """Each bit once cost as much time as the header is long: a megabyte would have taken hours."""
    began = time.process_time()
    with pytest.raises(ValueError, match="cut short"):
        hevc_tags(b"", (1_000_000).to_bytes(4, "big") + b"\x42\x01" + bytes(999_998))
    with pytest.raises(ValueError, match="cut short"):
        timing = int("000001" + 64 * "0" + "1" + "0", 2).to_bytes(9, "big")  # then a number in Exp-Golomb code
        av1_tags(b"", b"\x08" + timing + bytes(1_000_000))
    assert len(hevc_parameter_units(b"\x01" + bytes(21) + b"\xff" + b"\x21\xff\xff" * 300)) < 1000
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "change",
    [
        {"where": ""},
        {"where": "../x"},
        {"where": 5},
        {"where": "\ud800"},
        {"at": -1},
        {"at": True},
        {"bytes": "9"},
        {"bytes": 1 << 80},
        {"sha256": []},
        {"new": 1},
    ],
)
def test_a_manifest_that_lies_about_its_kinds_is_none(tmp_path: Path, change: dict) -> None:
    path = manifest_path(tmp_path / "o.mp4")
    entry = {
        "part": "box",
        "name": "a",
        "what": "b",
        "outcome": "moved",
        "where": "o.bin",
        "reason": "c",
        "bytes": 1,
        "at": 0,
    }
    path.write_text(json.dumps({"format": FORMAT, "entries": [entry]}))
    assert read_manifest(path) is not None
    path.write_text(json.dumps({"format": FORMAT, "entries": [entry | change]}))
    with pytest.raises(ValueError, match="is no manifest"):
        read_manifest(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is no manifest"):
        read_manifest(path)
    path.write_text(json.dumps({"format": FORMAT + 1, "entries": [{"other": 1}]}))
    with pytest.raises(ValueError, match="another version"):
        read_manifest(path)
