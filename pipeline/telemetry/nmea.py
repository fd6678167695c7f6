"""Positions in NMEA 0183 text: the sentences RMC (position and date) and GGA (height), as BlackVue and others store them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.telemetry.fixes import GpsFix, degrees, fix_of

SENTENCE = re.compile(rb"\$[A-Z]{2}(RMC|GGA),([ -)+-~]{1,200})(?:\*([0-9A-Fa-f]{2}))?")
MAX_LINE_BYTES = 4096
NUMBER = re.compile(r"\d{1,9}(\.\d{1,12})?")


@dataclass
class _Moment:
    """What the sentences of one moment say together."""

    clock: str
    latitude: float | None = None
    longitude: float | None = None
    elevation_m: float | None = None
    date: str = ""
    void: bool = False

    def fix(self) -> GpsFix | None:
        if self.void or self.latitude is None or self.longitude is None:
            return None
        return fix_of(self.latitude, self.longitude, self.elevation_m, _utc(self.date, self.clock))


def nmea_fixes(lines: Iterable[bytes]) -> Iterator[GpsFix]:
    """One position for each moment; sentences of the same time of day that follow each other belong together.

    A sentence may stand anywhere in a line. Sentences with a wrong checksum, without a fix or with impossible numbers are passed over.
    """
    moment: _Moment | None = None
    for line in lines:
        for found in SENTENCE.finditer(line[:MAX_LINE_BYTES]):
            if found[3] is not None and _checksum(found[0]) != int(found[3], 16):
                continue
            fields = found[2].decode("ascii").split(",")
            if moment is None or moment.clock != fields[0]:
                if moment is not None and (fix := moment.fix()) is not None:
                    yield fix
                moment = _Moment(fields[0])
            _read(moment, found[1], fields)
    if moment is not None and (fix := moment.fix()) is not None:
        yield fix


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines from pieces of a file. What is longer than MAX_LINE_BYTES is cut there, so memory is bounded."""
    rest = b""
    for piece in pieces:
        *whole, rest = re.split(rb"[\r\n\0]+", rest + piece)
        yield from whole
        if len(rest) > MAX_LINE_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest


def _read(moment: _Moment, kind: bytes, fields: list[str]) -> None:
    if kind == b"RMC" and len(fields) >= 9:
        moment.void |= fields[1] != "A"
        place, moment.date = fields[2:6], fields[8]
    elif kind == b"GGA" and len(fields) >= 9:
        moment.void |= fields[5] in ("", "0")
        place, moment.elevation_m = fields[1:5], _number(fields[8].removeprefix("-"))
        if moment.elevation_m is not None and fields[8].startswith("-"):
            moment.elevation_m = -moment.elevation_m
    else:
        return
    latitude, longitude = _number(place[0]), _number(place[2])
    if latitude is not None and longitude is not None and place[1] in ("N", "S") and place[3] in ("E", "W"):
        moment.latitude, moment.longitude = degrees(latitude, place[1] == "S"), degrees(longitude, place[3] == "W")


def _number(text: str) -> float | None:
    return float(text) if NUMBER.fullmatch(text) else None


def _utc(date: str, clock: str) -> datetime | None:
    """ddmmyy and hhmmss.sss; years 80 to 99 are of the last century."""
    if not re.fullmatch(r"\d{6}", date) or not re.fullmatch(r"\d{6}(\.\d{1,9})?", clock):
        return None
    year = int(date[4:])
    try:
        day = datetime(year + (1900 if year >= 80 else 2000), int(date[2:4]), int(date[:2]))
    except ValueError:
        return None
    hour, minute = int(clock[:2]), int(clock[2:4])
    if hour > 23 or minute > 59 or float(clock[4:]) >= 61:
        return None
    return day + timedelta(hours=hour, minutes=minute, milliseconds=round(float(clock[4:]) * 1000))


def _checksum(sentence: bytes) -> int:
    """All bytes between $ and * (NMEA 0183)."""
    total = 0
    for byte in sentence[1 : sentence.rindex(b"*")]:
        total ^= byte
    return total
