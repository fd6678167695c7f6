"""Positions in GoPro's telemetry (GPMF): keys of four letters, a type, a size and a count, nested; https://github.com/gopro/gpmf-parser.

GPS5 (to HERO10): latitude, longitude, height and two speeds about 18 times a second, SCAL their divisors, GPSF the fix (0 none, 2 or 3),
GPSU the time of the first. GPS9 (from HERO11): each sample has its own days since 2000, seconds, precision and fix.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from pipeline.telemetry.fixes import GpsFix, fix_of

MAX_DEPTH = 8
MAX_PACKET_SECONDS = 3600.0
"""A packet covers about one second; what claims more than an hour is not believed."""
GPS5 = struct.Struct(">5i")
GPS9 = struct.Struct(">7iHH")
GPS9_TYPE = b"lllllllSS"
EPOCH_2000 = datetime(2000, 1, 1)


def gpmf_fixes(packets: Iterable[tuple[bytes, float]]) -> Iterator[GpsFix]:
    """Positions of a gpmd track. packets: (bytes, seconds that the packet covers); samples of GPS5 lie evenly over them."""
    for payload, stated in packets:
        seconds = stated if 0 <= stated <= MAX_PACKET_SECONDS else 0.0
        for stream in _streams(payload, 0):
            if b"GPS5" in stream:
                yield from _gps5(stream, seconds)
            if b"GPS9" in stream:
                yield from _gps9(stream)


def _entries(data: bytes) -> Iterator[tuple[bytes, int, int, bytes]]:
    """(key, type, bytes a sample, content) of each entry. Stops at the first that does not fit."""
    at = 0
    while at + 8 <= len(data):
        key, kind, size, count = struct.unpack_from(">4sBBH", data, at)
        length = size * count
        if at + 8 + length > len(data):
            return
        yield key, kind, size, data[at + 8 : at + 8 + length]
        at += 8 + (length + 3) // 4 * 4


def _streams(data: bytes, depth: int) -> Iterator[dict[bytes, tuple[int, bytes]]]:
    """Every STRM as its entries by key (the last of a name), each (bytes a sample, content)."""
    for key, kind, _, body in _entries(data):
        if key == b"STRM" and kind == 0:
            yield {inner: (size, content) for inner, _, size, content in _entries(body)}
        elif kind == 0 and depth < MAX_DEPTH:
            yield from _streams(body, depth + 1)


def _scales(stream: dict[bytes, tuple[int, bytes]], count: int) -> list[int] | None:
    """Divisors of the values of one sample; None when there are not so many, or one is 0."""
    size, content = stream.get(b"SCAL", (0, b""))
    if size not in (2, 4) or len(content) % size:
        return None
    scales = [one for (one,) in struct.iter_unpack(">h" if size == 2 else ">i", content)]
    scales = scales * count if len(scales) == 1 else scales
    return scales if len(scales) >= count and all(scales) else None


def _gps5(stream: dict[bytes, tuple[int, bytes]], seconds: float) -> Iterator[GpsFix]:
    size, content = stream[b"GPS5"]
    scales = _scales(stream, 3)
    if size != GPS5.size or scales is None or int.from_bytes(stream.get(b"GPSF", (0, b""))[1][:4], "big") not in (2, 3):
        return
    start, count = _gpsu(stream.get(b"GPSU", (0, b""))[1]), len(content) // size
    for number, (latitude, longitude, height, _, _) in enumerate(GPS5.iter_unpack(content)):
        utc = None if start is None else start + timedelta(milliseconds=round(1000 * seconds * number / count))
        fix = fix_of(latitude / scales[0], longitude / scales[1], height / scales[2], utc)
        if fix is not None:
            yield fix


def _gps9(stream: dict[bytes, tuple[int, bytes]]) -> Iterator[GpsFix]:
    size, content = stream[b"GPS9"]
    scales = _scales(stream, 9)
    if size != GPS9.size or scales is None or stream.get(b"TYPE", (0, GPS9_TYPE))[1][:9] != GPS9_TYPE:
        return
    for sample in GPS9.iter_unpack(content):
        latitude, longitude, height, _, _, days, clock, _, locked = (
            value / scale for value, scale in zip(sample, scales, strict=False)
        )
        if locked not in (2, 3):
            continue
        utc = None
        if 0 <= days < 36525 and 0 <= clock < 86401:
            utc = EPOCH_2000 + timedelta(days=int(days), milliseconds=round(clock * 1000))
        fix = fix_of(latitude, longitude, height, utc)
        if fix is not None:
            yield fix


def _gpsu(content: bytes) -> datetime | None:
    """yymmddhhmmss.sss, UTC."""
    text = content[:16].decode("latin-1")
    if (
        len(text) != 16
        or text[12] != "."
        or not (text[:12] + text[13:]).isascii()
        or not (text[:12] + text[13:]).isdigit()
    ):
        return None
    pairs = [int(text[place : place + 2]) for place in range(0, 12, 2)]
    try:
        return datetime(2000 + pairs[0], *pairs[1:]) + timedelta(milliseconds=int(text[13:]))
    except ValueError:
        return None
