"""Bytes among the media data that no track leads to: where dashcams without an index put their GPS blocks, and editors leave old media behind."""

from __future__ import annotations

import numpy as np

from pipeline.moov import Box, inside, tracks

SOUND = b"soun"


def unowned_spans(data: bytes, media: list[tuple[int, int]], taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, size) of every piece of the media data that lies in no chunk of any track, in order (ISO/IEC 14496-12 clause 8.7).

    data: the moov box; media: (start, end) of the contents of the `mdat` boxes; taken: (start, size) of pieces that are known otherwise
    Tables that contradict themselves count as owning what they may own, so that no picture or sound is called unowned.
    """
    limit = max((end for _, end in media), default=0)
    starts, ends = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    loose = [np.empty(0, np.int64)]
    for track in tracks(data):
        chunks = _chunks(data, track, limit)
        if chunks is None:
            return []
        starts.append(chunks[0])
        ends.append(chunks[0] + chunks[1])
        if _may_be_longer(data, track):
            loose.append(chunks[0])
    starts += [np.array([start for start, _ in taken], np.int64)]
    ends += [np.array([start + size for start, size in taken], np.int64)]
    first, last = np.concatenate(starts), np.concatenate(ends)
    order = np.argsort(first, kind="stable")
    first, last = first[order], last[order]
    unsure = np.concatenate(loose)
    if unsure.size:  # such a chunk goes on to wherever the next one starts
        later = np.append(np.unique(first), limit)
        unsure_ends = later[np.searchsorted(later, unsure, side="right").clip(max=later.size - 1)]
        first, last = np.concatenate([first, unsure]), np.concatenate([last, unsure_ends])
        order = np.argsort(first, kind="stable")
        first, last = first[order], last[order]
    return [span for start, end in media for span in _gaps(first, last, start, end)]


def _gaps(first: np.ndarray, last: np.ndarray, start: int, end: int) -> list[tuple[int, int]]:
    """What is left of start..end without the intervals first..last, which are sorted by their start."""
    here = (last > start) & (first < end)
    edges = np.concatenate([[start], np.maximum.accumulate(last[here])]) if here.any() else np.array([start])
    nexts = np.concatenate([first[here], [end]])
    edges = np.maximum(edges, start)
    return [(int(edge), int(after - edge)) for edge, after in zip(edges, nexts, strict=True) if after > edge]


def _chunks(data: bytes, track: Box, limit: int) -> tuple[np.ndarray, np.ndarray] | None:
    """int64 (C,) places and (C,) sizes of a track's chunks; None when it has no sound tables."""
    table = inside(data, track, b"mdia", b"minf", b"stbl")
    if table is None:
        return None
    sizes, runs = inside(data, table, b"stsz"), inside(data, table, b"stsc")
    short, wide = inside(data, table, b"stco"), inside(data, table, b"co64")
    offsets = short or wide
    if sizes is None or runs is None or offsets is None or sizes.end - sizes.body < 12:
        return None
    places = _table(data, offsets, 8, ">u8" if short is None else ">u4", 1)
    places = np.minimum(places[:, 0], np.uint64(limit)).astype(np.int64)
    entries = _table(data, runs, 8, ">u4", 3).astype(np.int64)
    if not places.size:
        return places, places
    if not len(entries) or entries[0, 0] != 1 or (np.diff(entries[:, 0]) <= 0).any():
        return None
    lengths = np.diff(np.append(np.minimum(entries[:, 0] - 1, places.size), places.size))
    per_chunk = np.repeat(entries[:, 1], lengths)
    uniform = int.from_bytes(data[sizes.body + 4 : sizes.body + 8], "big")
    if uniform:
        wanted = per_chunk.astype(np.float64) * uniform
        return places, np.minimum(wanted, limit).astype(np.int64)
    samples = _table(data, sizes, 12, ">u4", 1)[:, 0].astype(np.int64)
    bounds = np.minimum(np.append(0, np.cumsum(np.minimum(per_chunk, samples.size))), samples.size)
    total = np.append(0, np.cumsum(samples))
    return places, np.minimum(total[bounds[1:]] - total[bounds[:-1]], limit)


def _may_be_longer(data: bytes, track: Box) -> bool:
    """Old QuickTime sound counts samples of one byte, whatever they take."""
    handler = inside(data, track, b"mdia", b"hdlr")
    sizes = inside(data, track, b"mdia", b"minf", b"stbl", b"stsz")
    sound = handler is not None and data[handler.body + 8 : handler.body + 12] == SOUND
    return sound and sizes is not None and data[sizes.body + 4 : sizes.body + 8] != bytes(4)


def _table(data: bytes, box: Box, skip: int, number: str, columns: int) -> np.ndarray:
    """(N, columns) numbers of a full box; as many rows as are stated and fit."""
    stated = int.from_bytes(data[box.body + skip - 4 : box.body + skip], "big")
    row = np.dtype(number).itemsize * columns
    rows = max(0, min(stated, (box.end - box.body - skip) // row))
    return (
        np.frombuffer(data, number, rows * columns, box.body + skip).reshape(rows, columns)
        if rows
        else np.empty((0, columns), number)
    )
