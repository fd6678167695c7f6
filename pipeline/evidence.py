"""Evidence: a manifest beside a converted file that says what it was made of, by which program, and how much of it a network made up.

For people who have to show later that a result belongs to a source: insurers, courts, makers of data sets. Nothing in it depends on the clock, the
machine's name or where the files lay, so that the same conversion gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.encode import publish
from pipeline.errors import InputError
from pipeline.frame_stats import RESTORED_GAIN, RESTORED_LIGHT
from pipeline.telemetry.companions import file_sum
from pipeline.version import VERSION

SUFFIX = ".evidence.json"
FORMAT = 1
RESTORED_MEANS = (
    f"a pixel counts as restored when the network raised the largest of its red, green and blue light above {RESTORED_GAIN:g} times what the "
    f"camera recorded plus {RESTORED_LIGHT:g} of SDR white"
)


@dataclass(frozen=True)
class TrackEvidence:
    """One converted video stream; plain data.

    stream: its index in the source; content_hash: of its packets and times (pipeline.index.content_hash)
    width, height: of the visible picture in pixels; spans: how many it was cut into
    repeated: numbers of the frames that were damaged and shown as a repeat of the last good one, counted from 0
    redone: frames redone in float32; unexpected: frames that the decoder gave and no packet announces, left out
    stats: (F,) rows of pipeline.frame_stats.TABLE, all frames of the track
    drive: which neighbouring files smoothing looked into (pipeline.neighbour.DrivePlace.facts); None: files are not joined
    """

    stream: int
    content_hash: str
    width: int
    height: int
    spans: int
    repeated: Sequence[int]
    redone: int
    unexpected: int
    stats: np.ndarray
    drive: Mapping[str, Any] | None = None


def manifest(
    source: Path,
    result: Path,
    *,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    plan: Mapping[str, Any],
    tracks: Sequence[TrackEvidence],
    beside: Mapping[str, Path],
) -> dict[str, Any]:
    """What goes into the manifest, as plain data.

    source, result: the two videos, read in full for their hashes; only their names are kept, not their folders
    model: {"name", "sha256", "restores_highlights"}; settings: configs.schema.result_settings
    plan: what else decided the bytes: {"identity", "settings_hash", "numerics_class", "precision", "stages", "encoder"}
    beside: other files that belong to the result, by what they are, such as {"mask": Path(...)}
    Raises InputError when a file cannot be read.
    """
    return {
        "format": FORMAT,
        "what": "Evidence manifest of Sunvisor: what a converted video was made of. Hashes are SHA-256 of whole files.",
        "source": _file(source),
        "result": _file(result),
        "beside": {name: _file(path) for name, path in sorted(beside.items())},
        "model": dict(model),
        "config": {
            "sha256": hashlib.sha256(canonical(dict(settings)).encode()).hexdigest(),
            "settings": dict(settings),
        },
        "plan": dict(plan),
        "software": {
            "sunvisor": VERSION,
            "pyav": av.__version__,
            "ffmpeg": {name: ".".join(map(str, number)) for name, number in sorted(av.library_versions.items())},
        },
        "restored_means": RESTORED_MEANS,
        "tracks": [_track(track) for track in tracks],
    }


def canonical(facts: Mapping[str, Any]) -> str:
    """Facts as JSON in one fixed form: keys sorted, one space of indentation a level, UTF-8, shortest numbers, a newline at the end.

    The manifest is written so, and the config's hash is of this text of its settings. Raises ValueError for NaN and infinities.
    """
    return json.dumps(facts, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def manifest_path(result: Path) -> Path:
    """drive_hdr.mp4 -> drive_hdr.evidence.json"""
    return result.with_name(result.stem + SUFFIX)


def write_manifest(result: Path, facts: Mapping[str, Any]) -> Path:
    """Write `manifest`'s facts beside the result under a temporary name, sync, rename. Returns the path; OSError as writing does."""
    path = manifest_path(result)
    partial = path.with_name(path.name + ".part")
    partial.write_text(canonical(facts), encoding="utf-8")
    publish(partial, path)
    return path


def _file(path: Path) -> dict[str, Any]:
    try:
        size, digest = file_sum(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read for the evidence manifest ({error.strerror}).") from error
    return {"name": path.name, "bytes": size, "sha256": digest}


def _track(track: TrackEvidence) -> dict[str, Any]:
    pixels = track.width * track.height
    restored = track.stats["restored_share"]
    counts = [round(share * pixels) for share in restored.tolist()]
    drive = {} if track.drive is None else {"drive": dict(track.drive)}
    return drive | {
        "stream": track.stream,
        "content_hash": track.content_hash,
        "width": track.width,
        "height": track.height,
        "frames": len(restored),
        "spans": track.spans,
        "repeated_frames": sorted(track.repeated),
        "frames_redone_in_float32": track.redone,
        "unexpected_frames_left_out": track.unexpected,
        "restored_pixels": sum(counts),
        "restored_share": round(sum(counts) / (pixels * len(counts)), 9) if counts else 0.0,
        "largest_restored_share_of_a_frame": round(max(restored.tolist(), default=0.0), 9),
        "frames_with_restored_pixels": sum(count > 0 for count in counts),
    }
