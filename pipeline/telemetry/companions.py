"""Companion files: what a camera or its owner keeps beside a clip under the same name, such as drive.gpx or drive.srt."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.heartbeat import beat
from pipeline.telemetry.found import BLOCK_BYTES
from pipeline.telemetry.gpx import made_by_us
from pipeline.telemetry.whole import whole_file

ENDINGS = frozenset({".gpx", ".nmea", ".srt", ".json", ".log", ".3gf", ".gps", ".map"})
"""Endings, in any case, of the files that go with a clip. Sunvisor's own carry two, such as .evidence.json, so they are none of them."""


@dataclass(frozen=True)
class CompanionPlan:
    """One companion. outcome: "kept" (it stays where it is, beside the output too), "copied" (to `target`) or "impossible"."""

    path: Path
    target: Path
    outcome: str
    reason: str


def plan_companions(source: Path, output: Path) -> list[CompanionPlan]:
    """The companions of a source by name, and what becomes of each. A folder that cannot be listed has none."""
    plans = []
    for path in _beside(source):
        target = output.with_name(output.stem + path.suffix)
        if target.exists() and target.samefile(path):
            plans.append(CompanionPlan(path, target, "kept", "it lies beside the output as well"))
        elif target.exists() and not _same(path, target):
            why = f"{target.name} is there already with other content, and is left alone"
            plans.append(CompanionPlan(path, target, "impossible", why))
        else:
            plans.append(CompanionPlan(path, target, "copied", "it has the source's name"))
    return plans


def copy_companions(plans: Iterable[CompanionPlan]) -> list[Path]:
    """Copy what is to be copied; each file appears only when complete. Returns the paths of all copies. OSError as copying does."""
    made = []
    for plan in plans:
        if plan.outcome != "copied":
            continue
        with whole_file(plan.target) as partial:
            shutil.copyfile(plan.path, partial)
        made.append(plan.target)
    return made


def file_sum(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            beat()
            state.update(block)
        return file.tell(), state.hexdigest()


def _beside(source: Path) -> list[Path]:
    try:
        files = sorted(source.parent.iterdir())
    except OSError:
        return []
    alike = (path for path in files if path.stem == source.stem and path.suffix.lower() in ENDINGS and path.is_file())
    return [path for path in alike if not made_by_us(path)]


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.stat().st_size == other.stat().st_size and file_sum(one) == file_sum(other)
