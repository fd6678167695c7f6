"""Drive names: what the name of a camera's file says of when it was recorded, and by which camera.

Cameras name files by a clock (20240131_123456, 2024-01-31_12-34-56, 2024_0131_123456_0001F), by a number (DJI_0042), or, GoPro, by a
recording and its chapter (GH020123 is chapter 2 of recording 123). What is left of the name when these are taken out is the same for all
files of one camera, and differs between front and rear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

CLOCK = re.compile(
    r"(?<!\d)(20\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[-_ T.]{0,2}(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)(\d{3})?(?!\d)",
    re.IGNORECASE,
)
NUMBER = re.compile(r"\d{3,}")
"""Shorter ones may tell cameras apart (cam1, ch02)."""
CHAPTER = re.compile(r"(G[HXSP])(\d\d)(\d{4})", re.IGNORECASE)
FIRST_CHAPTER = re.compile(r"GOPR(\d{4})", re.IGNORECASE)
"""Of older GoPros; their further chapters are GP010123, GP020123 and so on."""


@dataclass(frozen=True)
class DriveName:
    """What a file's name says.

    camera: the name without clock, number and chapter; equal for files of one camera, down to the case of letters
    clock: local time of the start, None where the name has none or several
    place: what puts the camera's files in order: seconds of the clock, (recording, chapter), or a number; empty: nothing does
    chapters: `place` is (recording, chapter), and the camera writes the next chapter where it ended the last one
    """

    camera: str
    clock: datetime | None
    place: tuple[float, ...]
    chapters: bool = False


def read_name(name: str) -> DriveName:
    """Read a file's name (no folder), with its ending. Any name can be read; most say nothing."""
    stem, dot, ending = name.rpartition(".")
    stem, ending = (stem, f".{ending}") if dot else (name, "")
    if found := CHAPTER.fullmatch(stem):
        return DriveName(f"{found[1]}{ending}", None, (int(found[3]), int(found[2])), True)
    if found := FIRST_CHAPTER.fullmatch(stem):
        return DriveName(f"GP{ending}", None, (int(found[1]), 0), True)
    clocks = [(found, when) for found in CLOCK.finditer(stem) if (when := _when(found)) is not None]
    if len(clocks) == 1:
        found, when = clocks[0]
        parts = (NUMBER.sub("<number>", part) for part in (stem[: found.start()], stem[found.end() :]))
        seconds = (when - datetime(2000, 1, 1)).total_seconds()
        return DriveName(f"{'<clock>'.join(parts)}{ending}", when, (seconds,))
    numbers = NUMBER.findall(stem)
    place = (float(numbers[0]),) if len(numbers) == 1 and not clocks else ()
    return DriveName(f"{NUMBER.sub('<number>', stem)}{ending}", None, place)


def _when(found: re.Match[str]) -> datetime | None:
    """The time that a match of CLOCK means, None where there is no such day or hour."""
    *moment, thousandths = (int(part or 0) for part in found.groups())
    try:
        return datetime(*moment, thousandths * 1000)
    except ValueError:
        return None
