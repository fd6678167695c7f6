"""Extras: what is written beside a converted video from the same pass: masks, HDR10+ metadata, evidence. The report is `reporting`'s."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from pipeline.streams import CopyPlan

REPORT_SUFFIX = ".report.html"


@dataclass(frozen=True)
class Finished:
    """A conversion whose output is published, and whose work folder is still there.

    lines: ledger line of each (track, span); copies: what became of the other streams
    shift_seconds, output_streams, warnings: as pipeline.assemble reports them, warnings with those of the plan
    """

    prepared: Prepared
    lines: Mapping[tuple[int, int], Mapping[str, Any]]
    copies: Sequence[CopyPlan]
    shift_seconds: Fraction
    output_streams: Mapping[int, int]
    warnings: Sequence[str]

    def of_track(self, number: int) -> list[Mapping[str, Any]]:
        """Ledger lines of a track's spans, in order."""
        return [self.lines[number, span.number] for span in self.prepared.plan.tracks[number].spans]

    def stats(self, number: int) -> np.ndarray:
        """Rows of pipeline.frame_stats.TABLE of a track's frames, in order."""
        files = [self.prepared.workdir / line["beside"]["stats"]["file"] for line in self.of_track(number)]
        return frame_stats.merge(frame_stats.load(file) for file in files)


def extra_paths(prepared: Prepared) -> dict[str, list[Path]]:
    """What is asked for -> its files: one a converted track, or one for all."""
    return extra_files(prepared.output, len(prepared.plan.tracks), prepared.plan.extras)


def extra_files(output: Path, tracks: int, extras: Collection[str]) -> dict[str, list[Path]]:
    """The same by the output's name and the number of converted tracks. extras: names of what is asked for"""
    paths = {
        "mask": [mask_path(output, number) for number in range(tracks)],
        "hdr10plus": [json_path(output, number) for number in range(tracks)],
        "evidence": [manifest_path(output)],
        "report": [output.with_name(output.stem + REPORT_SUFFIX)],
    }
    return {name: files for name, files in paths.items() if name in extras}


def write_extras(finished: Finished) -> None:
    """Write all but the report; each file appears only when it is complete."""
    prepared, extras = finished.prepared, extra_paths(finished.prepared)
    for number, path in enumerate(extras.get("mask", [])):
        _write_mask(finished, number, path)
    for number, path in enumerate(extras.get("hdr10plus", [])):
        write_json(path, finished.stats(number), transfer=prepared.plan.out.transfer)
    for kind in frame_files.ENDINGS.keys() & set(prepared.plan.extras):
        files = [prepared.workdir / line["beside"][kind]["file"] for line in finished.of_track(0)]
        frame_files.unpack_frames(files, prepared.frames)
    if "evidence" in extras:
        beside = {
            f"{name}{f' {number}' if number else ''}": path
            for name in ("mask", "hdr10plus")
            for number, path in enumerate(extras.get(name, []))
        }
        write_manifest(prepared.output, _evidence(finished, beside))


def _write_mask(finished: Finished, number: int, target: Path) -> None:
    prepared = finished.prepared
    track, index = prepared.plan.tracks[number], prepared.indices[number]
    shift = round(finished.shift_seconds * track.time_base_den)
    files = [prepared.workdir / line["beside"]["mask"]["file"] for line in finished.of_track(number)]
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
