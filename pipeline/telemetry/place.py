"""Put boxes where they belong: into a finished mp4 or mov, byte for byte, and those that cannot go there into one file beside it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.moov import Box, boxes, inside, read_moov, resize, track_id, tracks
from pipeline.telemetry.found import FoundBox, copy_spans
from pipeline.telemetry.keep import BoxPlan
from pipeline.telemetry.whole import whole_file


def keep_boxes(source: Path, output: Path, plans: Sequence[BoxPlan], track_ids: Mapping[int, int]) -> None:
    """Write what is to be kept into `output`, a finished mp4 or mov whose moov box is the last: nothing else in it moves.

    A box in user data takes the place of those of the same kind that the muxer wrote. Top-level boxes and Novatek's GPS blocks follow after moov.
    track_ids: source track id -> output track id
    """
    kept = [plan.box for plan in plans if plan.outcome == "kept"]
    index = next((plan.box for plan in plans if plan.box.nature == "index" and plan.outcome == "remade"), None)
    if not kept:
        return
    with source.open("rb") as given, output.open("r+b") as file:
        found = read_moov(file)
        if found is None or found[0] + len(found[1]) != file.seek(0, os.SEEK_END):
            raise AssertionError(f"{output}: moov is not the last box")
        position, data = found[0], bytearray(found[1])
        for place in dict.fromkeys(box.place for box in kept if box.place not in ("file", "mdat")):
            inner = [box for box in kept if box.place == place]
            raw = b"".join(piece for box in inner for piece in copy_spans(given, box.spans))
            _put(data, place, {box.kind.encode("latin-1") for box in inner}, raw, track_ids)
        after = [box for box in kept if box.nature == "blocks"] + [box for box in kept if box.place == "file"]
        if index is not None:
            start = position + len(data) + index.size
            resize(
                data, [_top(data)], len(data), _index_anew(b"".join(copy_spans(given, index.spans)), after[0], start)
            )
        file.seek(position)
        file.write(data)
        for box in after:
            file.writelines(copy_spans(given, box.spans))
        file.truncate()


def save_boxes(source: Path, path: Path, plans: Sequence[BoxPlan]) -> bool:
    """Write what is moved into one file beside the output, in the order of `BoxPlan.at`. False, and no file, when there is nothing."""
    moved = sorted((plan for plan in plans if plan.at is not None), key=lambda plan: plan.at)
    if not moved:
        return False
    with source.open("rb") as given, whole_file(path) as partial, partial.open("wb") as file:
        for plan in moved:
            file.writelines(copy_spans(given, plan.box.spans))
    return True


def _top(data: bytearray) -> Box:
    return next(boxes(data, 0, len(data)))


def _put(data: bytearray, place: str, kinds: set[bytes], raw: bytes, track_ids: Mapping[int, int]) -> None:
    """Append boxes to the box at `place`, and take away those of the same kinds that are there."""
    chain = _chain(data, place, track_ids)
    if place.endswith("udta") and chain[-1].kind != b"udta":
        resize(data, chain, chain[-1].end, struct.pack(">I4s", 8, b"udta"))
        chain = _chain(data, place, track_ids)
    while (old := _first(data, chain[-1], kinds)) is not None:
        resize(data, chain, old.start, remove=old.end - old.start)
        chain = _chain(data, place, track_ids)
    end = max((box.end for box in boxes(data, chain[-1].body, chain[-1].end)), default=chain[-1].body)
    resize(data, chain, end, raw)


def _first(data: bytearray, outer: Box, kinds: Iterable[bytes]) -> Box | None:
    return next((box for box in boxes(data, outer.body, outer.end) if box.kind in kinds), None)


def _chain(data: bytearray, place: str, track_ids: Mapping[int, int]) -> list[Box]:
    """From moov to the box at `place`, as far as there is one."""
    chain = [_top(data)]
    if place.startswith("trak "):
        wanted = track_ids[int(place.split()[1].split("/")[0])]
        chain.append(next(track for track in tracks(data) if track_id(data, track) == wanted))
    if place.endswith("/udta") and (found := inside(data, chain[-1], b"udta")) is not None:
        chain.append(found)
    return chain


def _index_anew(index: bytes, blocks: FoundBox, start: int) -> bytes:
    """Novatek's index for blocks that now lie one after another from `start`; entries that led to none become zeros."""
    made = bytearray(index)
    body = 16 if index[:4] == b"\x00\x00\x00\x01" else 8
    places = {}
    for offset, size in blocks.spans:
        places[offset, size] = start
        start += size
    for at in range(body + 8, len(made) - 7, 8):
        offset, size = struct.unpack_from(">II", made, at)
        new = places.pop((offset, size), None)
        struct.pack_into(">II", made, at, *((new, size) if new is not None else (0, 0)))
    return bytes(made)
