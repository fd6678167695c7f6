"""Are the source's boxes that FFmpeg does not hand on in the output with the same bytes, or beside it? And does the manifest tell the truth?"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from pipeline.telemetry.companions import file_sum
from pipeline.telemetry.found import FoundBox, copy_spans, find_boxes
from pipeline.telemetry.keep import plan_boxes
from pipeline.telemetry.manifest import BESIDE, Entry, manifest_path, read_manifest
from pipeline.verify_report import Check

KINDS = {".mkv": "mkv", ".mov": "mov"}


def box_checks(source: Path, output: Path, to_be_moved: Collection[str] = ()) -> list[Check]:
    """One check for each box that a conversion keeps or moves; boxes that become tags, and padding, are not looked for.

    to_be_moved: SHA-256 of boxes that the caller will save beside the output once this passes; else the manifest says where they are
    """
    container = KINDS.get(output.suffix.lower(), "mp4")
    found = find_boxes(source)
    there = Counter(_key(box) for box in find_boxes(output)) if found else Counter()
    moved = _moved(output)
    checks = []
    for plan in plan_boxes(found, container, {box.track for box in found if box.track is not None}):
        box, name = plan.box, f"box {plan.box.name}"
        if plan.outcome in ("padding", "impossible") or plan.where == "tags":
            continue
        beside = moved.get(box.sha256)
        if there[_key(box)]:
            there[_key(box)] -= 1
            where = "in the output, leading to the blocks there" if box.nature == "index" else "identical in the output"
            checks.append(Check(name, True, f"{box.what}: {box.size} bytes, {where}."))
        elif box.sha256 in to_be_moved:
            checks.append(Check(name, True, f"{box.what}: is to be saved beside the output."))
        elif beside is not None and _wrong(output, beside) is None:
            checks.append(Check(name, True, f"{box.what}: {box.size} bytes, identical in {beside.where}."))
        else:
            lost = "neither in the output nor where a manifest says that they are"
            checks.append(Check(name, False, f"{box.what}: its {box.size} bytes are {lost}."))
    return checks


def manifest_checks(output: Path) -> list[Check]:
    """Are the boxes that the manifest calls kept in the output, and the files that it names beside it, with the bytes it states?

    Empty when there is no manifest. Streams are not looked at here: their packets are compared with the source's.
    """
    path = manifest_path(output)
    try:
        entries = read_manifest(path)
    except ValueError as error:
        return [Check("manifest", False, f"{error}.")]
    if entries is None:
        return []
    there = {box.sha256 for box in find_boxes(output)}
    wrong = [text for entry in entries if (text := _wrong(output, entry)) is not None]
    boxes = [entry for entry in entries if entry.part == "box" and entry.outcome == "kept"]
    wrong += [f"{entry.name} is not in the output with these bytes" for entry in boxes if entry.sha256 not in there]
    if wrong:
        return [Check("manifest", False, "; ".join(wrong) + ".")]
    named = sum(entry.outcome in BESIDE for entry in entries)
    return [Check("manifest", True, f"{len(entries)} entries; the {named} that are beside the output are as it says.")]


def _wrong(output: Path, entry: Entry) -> str | None:
    if entry.outcome not in BESIDE:
        return None
    path = output.with_name(entry.where)
    if not path.is_file():
        return f"{path.name} is missing ({entry.name})"
    if entry.part == "box":
        state = _sum_of_part(path, entry.at or 0, entry.bytes or 0)
        return None if state == entry.sha256 else f"{path.name} does not hold {entry.name} at byte {entry.at}"
    return None if file_sum(path) == (entry.bytes, entry.sha256) else f"{path.name} has other bytes ({entry.name})"


def _place(box: FoundBox) -> str:
    """Without the number of the track, which may differ in the output; GPS blocks by what they are."""
    return "blocks" if box.nature == "blocks" else re.sub(r"trak \d+", "trak", box.place)


def _key(box: FoundBox) -> tuple[str, str, str]:
    return _place(box), box.kind, "" if box.nature == "index" else box.sha256


def _moved(output: Path) -> dict[str | None, Entry]:
    """What the manifest says is in a file beside the output, by SHA-256."""
    try:
        entries = read_manifest(manifest_path(output)) or []
    except ValueError:
        return {}  # `manifest_checks` says so
    return {entry.sha256: entry for entry in entries if entry.part == "box" and entry.outcome == "moved"}


def _sum_of_part(path: Path, start: int, size: int) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        for piece in copy_spans(file, ((start, size),)):
            state.update(piece)
    return state.hexdigest()
