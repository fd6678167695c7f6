"""Extras: what is written beside a converted video from the same pass: masks, HDR10+ metadata, evidence. The report is `reporting`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import frame_files, frame_stats
from pipeline.encode import publish
from pipeline.evidence import TrackEvidence, manifest, manifest_path, write_manifest
from pipeline.hdr10plus import json_path, write_json
from pipeline.mask import join_masks, mask_path
from pipeline.prepare import Prepared
from pipeline.proxy import proxy_in
from pipeline.proxy_file import proxy_path, write_proxy
from pipeline.telemetry.manifest import Entry
from pipeline.telemetry.manifest import manifest_path as streams_path

REPORT_SUFFIX = ".report.html"


@dataclass(frozen=True)
class Finished:
    """A conversion whose output is published, and whose work folder is still there.

    lines: ledger line of each (track, span); account: what became of every stream, box, tag and companion file
    shift_seconds, output_streams, warnings: as pipeline.assemble reports them, warnings with those of the plan
    """

    prepared: Prepared
    lines: Mapping[tuple[int, int], Mapping[str, Any]]
    account: Sequence[Entry]
    shift_seconds: Fraction
    output_streams: Mapping[int, int]
    warnings: Sequence[str]

    def of_track(self, number: int) -> list[Mapping[str, Any]]:
        """Ledger lines of a track's spans, in order."""
        return [self.lines[number, span.number] for span in self.prepared.plan.tracks[number].spans]

    def pieces(self, number: int, kind: str) -> list[Path]:
        """What a track's spans wrote beside their video, in order; kind: as pipeline.plan.kinds_beside has it."""
        return [self.prepared.workdir / line["beside"][kind]["file"] for line in self.of_track(number)]

    def stats(self, number: int) -> np.ndarray:
        """Rows of pipeline.frame_stats.TABLE of a track's frames, in order."""
        return frame_stats.merge(frame_stats.load(file) for file in self.pieces(number, "stats"))


def extra_paths(prepared: Prepared) -> dict[str, list[Path]]:
    """What is asked for -> its files: one a converted track, or one for all."""
    return extra_files(prepared.output, len(prepared.plan.tracks), prepared.plan.extras)


def extra_files(output: Path, tracks: int, extras: Sequence[str]) -> dict[str, list[Path]]:
    """The same by the output's name and the number of converted tracks. extras: as in pipeline.plan.Plan"""
    paths = {
        "mask": [mask_path(output, number) for number in range(tracks)],
        "hdr10plus": [json_path(output, number) for number in range(tracks)],
        "evidence": [manifest_path(output)],
        "manifest": [streams_path(output)],
        "report": [output.with_name(output.stem + REPORT_SUFFIX)],
    }
    asked = {name: files for name, files in paths.items() if name in extras}
    return asked | ({"proxy": [proxy_path(output, number) for number in range(tracks)]} if proxy_in(extras) else {})


def write_extras(finished: Finished) -> list[str]:
    """Write all but the report; each file appears only when it is complete. Returns warnings."""
    warnings: list[str] = []
    prepared, extras = finished.prepared, extra_paths(finished.prepared)
    for number, path in enumerate(extras.get("mask", [])):
        _write_mask(finished, number, path)
    for number, path in enumerate(extras.get("hdr10plus", [])):
        write_json(path, finished.stats(number), transfer=prepared.plan.out.transfer)
    for number, path in enumerate(extras.get("proxy", [])):
        pieces = finished.pieces(number, proxy_in(prepared.plan.extras).name)
        warnings += write_proxy(prepared, number, pieces, finished.shift_seconds, path)
    for kind in frame_files.ENDINGS.keys() & set(prepared.plan.extras):
        frame_files.unpack_frames(finished.pieces(0, kind), prepared.frames)
    if "evidence" in extras:
        beside = {
            f"{name}{f' {number}' if number else ''}": path
            for name in ("mask", "hdr10plus", "proxy")
            for number, path in enumerate(extras.get(name, []))
        }
        write_manifest(prepared.output, _evidence(finished, beside))
    return warnings


def _write_mask(finished: Finished, number: int, target: Path) -> None:
    prepared = finished.prepared
    track, index = prepared.plan.tracks[number], prepared.indices[number]
    shift = round(finished.shift_seconds * track.time_base_den)
    files = finished.pieces(number, "mask")
    starts = [int(index.frame_pts[span.first_frame]) * track.ticks + shift for span in track.spans]
    partial = prepared.workdir / f"final.{number}.mask.mp4"
    join_masks(files, starts, partial)
    publish(partial, target)


def _evidence(finished: Finished, beside: Mapping[str, Path]) -> dict[str, Any]:
    prepared, plan = finished.prepared, finished.prepared.plan
    tracks = []
    for number, track in enumerate(plan.tracks):
        lines = finished.of_track(number)
        tracks.append(
            TrackEvidence(
                stream=track.stream_index,
                content_hash=track.content_hash,
                width=track.width,
                height=track.height,
                spans=len(track.spans),
                repeated=[frame for line in lines for frame in line["repeated"]],
                redone=sum(line["redone_in_float32"] for line in lines),
                unexpected=sum(line["unexpected_frames"] for line in lines),
                stats=finished.stats(number),
                drive=track.drive.facts() if track.drive else None,
            )
        )
    return manifest(
        prepared.source,
        prepared.output,
        model={
            "name": plan.model,
            "sha256": plan.model_sha256,
            "restores_highlights": plan.model_restores_highlights,
        },
        settings=prepared.settings,
        plan={
            "identity": plan.identity(),
            "settings_hash": plan.settings_hash,
            "numerics_class": plan.numerics_class,
            "precision": plan.precision,
            "stages": list(plan.stages),
            "encoder": str(plan.encoder),
        },
        tracks=tracks,
        beside=beside,
    )
