"""The report of a conversion that has just been finished: its facts, gathered from plan, ledger and output."""

from __future__ import annotations

from pathlib import Path

from pipeline.extras import Finished, extra_paths
from reporting.facts import OverlayFound, ReportFacts, StreamKept, TrackFacts
from reporting.page import write_report

BESIDE = {
    "mask": "how much of each pixel came from the network",
    "hdr10plus": "HDR10+ dynamic metadata",
    "evidence": "what the result was made of",
    "manifest": "every stream, box, tag and companion file, and what became of it",
}
STAGES = {"decode": "reading the source", "compute": "network and grading", "encode": "compressing"}


def report_conversion(finished: Finished, target: Path) -> None:
    """Write the report of a conversion. Raises as `write_report` does."""
    prepared, plan = finished.prepared, finished.prepared.plan
    seconds = [line["seconds"] for line in finished.lines.values()]
    write_report(
        target,
        ReportFacts(
            source=prepared.source,
            result=prepared.output,
            transfer=plan.out.transfer,
            white_nits=plan.out.white_nits,
            peak_nits=plan.out.peak_nits,
            restores_highlights=plan.model_restores_highlights,
            made_with=(
                ("checkpoint", f"{plan.model}, {plan.precision} on {plan.device}"),
                ("stages", ", ".join(plan.stages)),
                ("encoder", str(plan.encoder)),
            ),
            tracks=tuple(_track(finished, number) for number in range(len(plan.tracks))),
            streams=tuple(
                StreamKept(one.name, one.what, one.fate, one.reason)
                for one in finished.account
                if one.outcome != "converted"
            ),
            warnings=tuple(finished.warnings),
            timings=tuple((words, round(sum(one[name] for one in seconds), 2)) for name, words in STAGES.items()),
            files_beside=tuple(
                (path.name, BESIDE[name])
                for name, paths in extra_paths(prepared).items()
                if name in BESIDE
                for path in paths
            ),
        ),
    )


def _track(finished: Finished, number: int) -> TrackFacts:
    track = finished.prepared.plan.tracks[number]
    return TrackFacts(
        source_stream=track.stream_index,
        result_stream=finished.output_streams[track.stream_index],
        source_index=finished.prepared.indices[number],
        width=track.width,
        height=track.height,
        rate=track.rate,
        rotation_degrees=track.rotation,
        sample_aspect_ratio=track.sample_aspect_ratio,
        layout=track.layout,
        color=track.color,
        deinterlace=track.deinterlace,
        stats=finished.stats(number),
        overlays=tuple(
            OverlayFound(box.x, box.y, box.width, box.height, "bright, and the same in picture after picture")
            for box in track.overlays
        ),
    )
