"""Files damaged by chance: no crash, no hang, no memory without end, and whatever is wrong is told in a sentence that names the file."""

from __future__ import annotations

import json
import random
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from pipeline.describe import describe
from pipeline.errors import InputError
from tests.clips import make_clip, remux
from tests.mutations import make_seeds, mutate

ROOT = Path(__file__).resolve().parents[1]
HANGS_SECONDS = 300
"""No file here has more than 24 small frames; on an idle machine one takes a fifth of a second."""
PEAK_BYTES = 1_600_000_000
"""Of the whole process, torch and the encoder's own included, whatever the files say of themselves."""
FILES, FILES_LONG = 100, 2000


class Victim:
    """A process that converts files; a new one is started when it has died."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._process: subprocess.Popen[str] | None = None

    def convert(self, path: Path) -> dict:
        """How it ended: "done", "refused", "failed", "bug", "crash" or "hang", and what was said."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile_worker", str(self._folder)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(str(path)) + "\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], HANGS_SECONDS)[0]:
            self._end()
            return {"ended": "hang", "text": f"no answer within {HANGS_SECONDS} s"}
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self._end()
            return {"ended": "crash", "text": f"exit code {code}"}
        return json.loads(line)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


def damaged_files(folder: Path, count: int) -> Iterator[tuple[Path, str]]:
    """Damaged files, each with what it was made of. They stay, to be looked at."""
    seeds = make_seeds(folder / "seeds")
    for number in range(count):
        chance = random.Random(number)
        seed, other = seeds[number % len(seeds)], chance.choice(seeds)
        path = folder / f"d{number:05d}{seed.suffix}"
        path.write_bytes(mutate(seed.read_bytes(), other.read_bytes(), chance))
        yield path, f"number {number}: {path} ({seed.name} with pieces of {other.name})"


def attack(tmp_path: Path, count: int) -> Counter[str]:
    """Convert `count` damaged files and fail with a list of all that went wrong."""
    ends: Counter[str] = Counter()
    wrong = []
    with Victim(tmp_path / "out") as victim:
        for path, how in damaged_files(tmp_path, count):
            told = victim.convert(path)
            ends[told["ended"]] += 1
            if told["ended"] in ("bug", "crash", "hang"):
                wrong.append(f"{how}: {told['ended']}: {told['text']}")
            elif told["ended"] in ("refused", "failed"):
                if path.stem not in told["text"]:
                    wrong.append(f"{how}: the file is not named: {told['text']}")
                left = [one.name for one in (tmp_path / "out").glob(f"{path.stem}*.mp4")]
                if left:
                    wrong.append(f"{how}: {told['ended']}, and yet there is {left}")
            if told.get("peak_bytes", 0) > PEAK_BYTES:
                wrong.append(f"{how}: {told['peak_bytes'] / 1e9:.2f} GB of memory")
                break
    assert not wrong, f"{len(wrong)} of {count} files:\n" + "\n".join(wrong)
    return ends


def test_damaged_files(tmp_path: Path) -> None:
    ends = attack(tmp_path, FILES)
    assert ends["done"] > FILES / 10, "hardly any damaged file can be converted: the damage is no test of decoding"
    assert ends["refused"] + ends["failed"] > FILES / 10, "hardly any damage is noticed: is it done at all?"


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_two_thousand_damaged_files(tmp_path: Path) -> None:
    attack(tmp_path, FILES_LONG)


def test_healthy_files_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    """Else number 37 would be another file in every run, and what CI met could not be met again."""
    first, second = (make_seeds(tmp_path / name) for name in "ab")
    assert [one.name for one, other in zip(first, second, strict=True) if one.read_bytes() != other.read_bytes()] == []


def test_the_same_seed_gives_the_same_damage() -> None:
    data, other = bytes(range(256)) * 40, b"moov" * 900
    first = [mutate(data, other, random.Random(number)) for number in range(40)]
    assert first == [mutate(data, other, random.Random(number)) for number in range(40)]
    assert len(set(first)) > 30


def test_a_stream_that_begins_on_the_way_is_told(tmp_path: Path) -> None:
    """An FLV of pictures alone in which a late tag says that it is sound: PyAV has no place for its stream."""
    clip = remux(make_clip(tmp_path / "clip.mp4", frames=400), tmp_path / "clip.flv", container="flv")
    data = bytearray(clip.read_bytes())
    at, tags = 13, []
    while at + 11 < len(
        data
    ):  # Adobe Flash Video File Format, version 10.1, annex E.4.1: type, size, time, stream; then 4 bytes
        tags.append(at)
        at += 11 + int.from_bytes(data[at + 1 : at + 4], "big") + 4
    late = [tag for tag in tags if data[tag] == 9][390]
    data[late] = 8
    data[late + 11] = 0xAF  # AAC, 44 kHz, 16 bits, stereo
    path = tmp_path / "late.flv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"late\.flv: a stream begins on the way"):
        describe(path)
