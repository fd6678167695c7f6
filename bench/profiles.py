"""The same frame through every profile: docs/profiles.jpg and a table of what each makes of it.

    python -m bench.profiles CLIP --frame 40

CLIP: a short SDR video, for example the demo's (demo_out/sdr.mp4). Converted in this process. Pictures: folded for an SDR screen,
and two stops darker, where only highlights are left. Prints the table that docs/profiles.md shows.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from configs.schema import load_config, profiles
from evaluation.nits import read_nits
from evaluation.tonemap import exposure, tone_map
from pipeline.convert import convert
from pipeline.file_report import FileReport

Array = np.ndarray
WIDTH_PX = 480
LABEL_PX = 26
QUALITY = 82


def picture(nits: Array, label: str) -> Array:
    """One row: the frame (H,W,3) in nits folded for this screen, and two stops darker; uint8 B, G, R."""
    size = WIDTH_PX, round(WIDTH_PX * nits.shape[0] / nits.shape[1])
    views = [cv2.resize(view, size, interpolation=cv2.INTER_AREA) for view in (tone_map(nits), exposure(nits, -2))]
    row = np.concatenate([view[..., ::-1] for view in views], axis=1)
    head = np.full((LABEL_PX, row.shape[1], 3), 255, np.uint8)
    cv2.putText(head, label, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate([head, row])


def frame_of(path: Path, number: int) -> Array:
    """Frame `number` (from 0) of a video in nits."""
    return next(itertools.islice(read_nits(path), number, None))


def run(clip: Path, number: int, target: Path) -> str:
    """Write the pictures and return the table as Markdown."""
    rows = [picture(frame_of(clip, number), "the SDR clip")]
    lines = ["| profile | kB a frame | MaxCLL | stages |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for name in profiles():
            output = Path(folder) / f"{name}.mp4"
            report = convert(clip, output, load_config(name))
            rows.append(picture(frame_of(output, number), name))
            lines.append(_line(name, report, output))
    if not cv2.imwrite(str(target), np.concatenate(rows), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
        raise OSError(f"{target}: cannot be written")
    return "\n".join(lines) + "\n"


def _line(name: str, report: FileReport, output: Path) -> str:
    kilobytes = output.stat().st_size / 1000 / report.frames
    stages = " ".join(report.stages)
    return f"| `{name}` | {kilobytes:.1f} | {report.max_cll_nits} | {stages} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frame", type=int, default=20, help="which frame to show, from 0 (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("docs/profiles.jpg"))
    args = parser.parse_args()
    sys.stdout.write(run(args.clip, args.frame, args.output))


if __name__ == "__main__":
    main()
