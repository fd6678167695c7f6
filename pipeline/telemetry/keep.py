"""What becomes of each box that FFmpeg does not hand on: kept in the output, moved beside it, or impossible, and why."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pipeline.telemetry.found import FoundBox
from pipeline.telemetry.known import TEXT_BOXES

MOVED_SUFFIX = ".telemetry.bin"
LAST_OFFSET = (1 << 32) - 1


@dataclass(frozen=True)
class BoxPlan:
    """One found box and its fate.

    outcome: "kept" (in the output, byte for byte), "remade" (in the output, but not with the same bytes), "moved" (beside the output),
        "padding" or "impossible"
    where: the place in the output; for "moved" the end of the file's name: OUTPUT's stem plus this
    reason: one clause, why; at: for "moved", where in that file it begins, in bytes
    """

    box: FoundBox
    outcome: str
    where: str
    reason: str
    at: int | None = None


def plan_boxes(found: Sequence[FoundBox], container: str, tracks: Collection[int]) -> list[BoxPlan]:
    """Decide for each box.

    container: of the output, "mp4", "mov" or "mkv"; tracks: ids of the source's tracks that have a track of their own in the output
    """
    has_index = any(box.nature == "index" for box in found)
    return _laid_out([_plan(box, container, tracks, has_index) for box in found])


def settle(plans: Sequence[BoxPlan], output_bytes: int) -> list[BoxPlan]:
    """The plans once the output's size is known: Novatek's index counts to 4 GiB, and what it cannot reach is moved instead."""
    blocks = sum(plan.box.size for plan in plans if plan.outcome == "kept")
    if output_bytes + blocks <= LAST_OFFSET:
        return list(plans)
    why = "the output is larger than 4 GiB, and the index cannot count so far"
    return _laid_out(
        [
            replace(plan, outcome="moved", where=MOVED_SUFFIX, reason=why)
            if plan.box.nature in ("index", "blocks")
            else plan
            for plan in plans
        ]
    )


def _plan(box: FoundBox, container: str, tracks: Collection[int], has_index: bool) -> BoxPlan:
    def moved(reason: str) -> BoxPlan:
        return BoxPlan(box, "moved", MOVED_SUFFIX, reason)

    if box.nature == "padding":
        return BoxPlan(box, "padding", "", "there is nothing in it to keep")
    if box.nature == "uncounted":
        return BoxPlan(box, "impossible", "", "no camera writes so many; look at the source with another program")
    if box.nature == "left":
        why = "it is too much for camera data; an editor may have left old media behind"
        return BoxPlan(box, "impossible", "", why)
    if box.nature == "tags":
        return BoxPlan(
            box, "remade", "tags", "FFmpeg reads its entries as tags, and they are written again with the output's own"
        )
    if container == "mkv":
        if box.kind in TEXT_BOXES and box.place == "moov/udta":
            return BoxPlan(box, "remade", "tags", "Matroska holds no boxes; its text is kept as a tag")
        return moved("Matroska holds no boxes")
    if box.nature == "rest":
        return moved("it is no box, so there is no place for it in the output")
    if box.nature == "offsets":
        return moved("it points at places in the source file, which are others in the output")
    if box.nature == "index":
        return BoxPlan(box, "remade", "moov", "the same index, leading to where the blocks are in the output")
    if box.nature == "blocks":
        return BoxPlan(box, "kept", "file", "byte for byte after the movie box, where the index leads to them")
    if box.track is not None and box.track not in tracks:
        return moved("its track has no track of its own in the output")
    if box.kind == "meta" and box.place.endswith("udta"):
        return moved("the output has a box of this name there, with its own tags")
    why = "byte for byte at the end of the file" if box.place == "file" else "byte for byte"
    return BoxPlan(box, "kept", box.place, why)


def _laid_out(plans: list[BoxPlan]) -> list[BoxPlan]:
    """Give what is moved its place in the file: boxes first, so that they can be read one after another, and then what is no box."""
    order = sorted(range(len(plans)), key=lambda number: (plans[number].box.nature == "rest", number))
    done, at = list(plans), 0
    for number in order:
        if plans[number].outcome == "moved":
            done[number] = replace(plans[number], at=at)
            at += plans[number].box.size
    return done
