"""GPS blocks of dashcams with Novatek chips (Viofo and many others).

A block is a box `free` whose content begins with `GPS `. Little-endian, from `base` on: six 32-bit numbers hour, minute, second, year, month,
day; the letters A (fix) or V (none), N or S, E or W, one unknown; 32-bit floats latitude and longitude as DDDMM.MMMM, speed in knots, course.
`base` is 48 bytes from the block's start, 16 in newer firmware: the letters say which (ExifTool's QuickTimeStream.pl has both; there is no
public standard). Some makers scramble their blocks: those give no fix here, and their bytes are kept all the same.
The time is the camera's clock as it was written down; the block does not say whether that is UTC.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from datetime import datetime

from pipeline.telemetry.fixes import GpsFix, degrees, fix_of

BASES = (48, 16)
LETTERS = re.compile(rb"A[NS][EW]")
RECORD = struct.Struct("<6I4s4f")


def novatek_fix(block: bytes) -> GpsFix | None:
    """The position of one block, header included; None when it has no fix or is of another layout."""
    for base in BASES:
        if len(block) < base + RECORD.size or not LETTERS.match(block, base + 24):
            continue
        hour, minute, second, year, month, day, letters, latitude, longitude, _, _ = RECORD.unpack_from(block, base)
        try:
            utc = datetime(year + 2000 if year < 100 else year, month, day, hour, minute, second)
        except (ValueError, OverflowError):
            return None  # another layout whose bytes happen to look like the letters
        return fix_of(degrees(latitude, letters[1:2] == b"S"), degrees(longitude, letters[2:3] == b"W"), None, utc)
    return None


def novatek_fixes(blocks: Iterable[bytes]) -> Iterator[GpsFix]:
    """The positions of blocks that have one."""
    for block in blocks:
        if (fix := novatek_fix(block)) is not None:
            yield fix
