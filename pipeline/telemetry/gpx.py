"""GPX 1.1 (https://www.topografix.com/GPX/1/1): the positions of a drive in the form that maps and other tools read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

from pipeline.telemetry.fixes import GpsFix
from pipeline.telemetry.whole import whole_file
from pipeline.version import VERSION

CREATOR = "Sunvisor"


def write_gpx(path: Path, tracks: Iterable[tuple[str, Iterable[GpsFix]]]) -> dict[str, int]:
    """Write a file with one track for each origin (name, positions) that has any, and say how many each has.

    No file is left when there is no position at all. Positions are read one by one, so memory does not grow with the drive.
    """
    counts: dict[str, int] = {}
    with whole_file(path) as partial:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write('<?xml version="1.0" encoding="UTF-8"?>\n')
            file.write(f'<gpx version="1.1" creator="{CREATOR} {VERSION}" xmlns="http://www.topografix.com/GPX/1/1">\n')
            for name, fixes in tracks:
                for fix in fixes:
                    if name not in counts:
                        counts[name] = 0
                        file.write(f"<trk><name>{escape(name)}</name><trkseg>\n")
                    counts[name] += 1
                    file.write(_point(fix))
                if name in counts:
                    file.write("</trkseg></trk>\n")
            file.write("</gpx>\n")
        if not counts:
            partial.unlink()
    return counts


def made_by_us(path: Path) -> bool:
    """Is this a GPX file that `write_gpx` wrote? False when it cannot be read."""
    try:
        with path.open("rb") as file:
            return f'creator="{CREATOR} '.encode() in file.read(256)
    except OSError:
        return False


def _point(fix: GpsFix) -> str:
    height = "" if fix.elevation_m is None else f"<ele>{fix.elevation_m:.3f}</ele>"
    time = "" if fix.utc is None else f"<time>{fix.utc.isoformat(timespec='milliseconds')}Z</time>"
    return f'<trkpt lat="{fix.latitude:.7f}" lon="{fix.longitude:.7f}">{height}{time}</trkpt>\n'
