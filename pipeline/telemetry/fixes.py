"""One position, and the two checks that every reader of positions shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class GpsFix:
    """Where the camera was.

    latitude, longitude: degrees (WGS 84), north and east positive; elevation_m: above the sea as the receiver said it, None when unknown
    utc: time of the fix, without a zone, None when unknown
    """

    latitude: float
    longitude: float
    elevation_m: float | None = None
    utc: datetime | None = None


def fix_of(
    latitude: float, longitude: float, elevation_m: float | None = None, utc: datetime | None = None
) -> GpsFix | None:
    """A fix, or None when this is no place on Earth: not finite, out of range, or exactly 0, 0, which receivers without a fix write."""
    if not (math.isfinite(latitude) and math.isfinite(longitude)) or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    if latitude == 0 and longitude == 0:
        return None
    if elevation_m is not None and not (math.isfinite(elevation_m) and abs(elevation_m) < 100_000):
        elevation_m = None
    return GpsFix(latitude, longitude, elevation_m, utc)


def degrees(value: float, negative: bool) -> float:
    """Degrees from DDDMM.MMMM (NMEA 0183). NaN when it is not finite or the minutes are 60 or more."""
    if not math.isfinite(value) or value < 0 or value % 100 >= 60:
        return math.nan
    whole = value // 100 + value % 100 / 60
    return -whole if negative else whole
