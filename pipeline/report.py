"""Reports for people: what a conversion will do, and what became of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pipeline.extras import extra_paths
from pipeline.file_report import FileReport
from pipeline.flow import choose_method
from pipeline.plan import Track
from pipeline.prepare import Prepared, disk_need_bytes
from pipeline.streams import plan_copies
from pipeline.telemetry.account import account_of
from pipeline.telemetry.manifest import Entry


def plan_facts(prepared: Prepared) -> dict[str, Any]:
    """What convert would do with a file, as plain data (--dry-run --json)."""
    plan = prepared.plan
    copies = plan_copies(prepared.source, plan.container, {track.stream_index for track in plan.tracks})
    account = account_of(prepared, copies).planned()
    return {
        "source": str(prepared.source),
        "output": str(prepared.output),
        "container": plan.container,
        "model": plan.model,
        "restores_highlights": plan.model_restores_highlights,
        "device": plan.device,
        "precision": plan.precision,
        "numerics_class": plan.numerics_class,
        "stages": list(plan.stages),
        "scale": prepared.plan.scale,
        "extras": {name: [str(path) for path in paths] for name, paths in extra_paths(prepared).items()},
        "transfer": plan.out.transfer,
        "white_nits": plan.out.white_nits,
        "peak_nits": plan.out.peak_nits,
        "encoder": plan.encoder.encoder,
        "encoder_settings": str(plan.encoder),
        "encoder_reason": plan.encoder.reason,
        "disk_need_bytes": disk_need_bytes(prepared),
        "work_limit_bytes": plan.work_limit_bytes,
        "tracks": [_track_facts(track) for track in plan.tracks],
        "streams": [
            {"stream": copy.stream, "kind": copy.kind, "action": copy.action, "reason": copy.reason} for copy in copies
        ],
        "account": [entry.to_dict() for entry in account],
        "warnings": list(plan.warnings),
    }


def _track_facts(track: Track) -> dict[str, Any]:
    color = {name: [getattr(track.color, name), reason] for name, reason in track.color_reasons.items()}
    return {
        "stream": track.stream_index,
        "size": f"{track.width}x{track.height}",
        "chroma": track.layout.chroma,
        "bit_depth": track.layout.bit_depth,
        "frames": track.frames,
        "seconds": round(track.duration_seconds, 3),
        "rate": str(track.rate),
        "deinterlace": track.deinterlace,
        "rotation": track.rotation,
        "sample_aspect_ratio": str(track.sample_aspect_ratio or "1"),
        "tile": track.tile,
        "overlays": [[box.x, box.y, box.width, box.height] for box in track.overlays],
        "excluded": [list(polygon) for polygon in track.excluded],
        "denoise_strength": track.denoise,
        "temporal_radius": track.radius,
        "drive": track.drive and track.drive.told(),
        "color": color,
        "spans": [[span.first_frame, span.frames] for span in track.spans],
    }


def print_plan(console: Console, facts: dict[str, Any]) -> None:
    """Print what convert would do with a file, for a person. facts: of `plan_facts`"""
    table = Table(
        show_header=False, box=None, pad_edge=False, title=f"Plan for {facts['source']}", title_justify="left"
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("output", f"{facts['output']} ({facts['container']})")
    for name, paths in facts["extras"].items():
        table.add_row(name, ", ".join(paths))
    for track in facts["tracks"]:
        extras = [
            f"{track['chroma']} {track['bit_depth']}-bit",
            f"{track['frames']} frames",
            f"{track['seconds']:g} s",
            f"{track['rate']} fps",
        ]
        extras += ["deinterlaced"] if track["deinterlace"] else []
        extras += [f"rotated {track['rotation']} degrees by a tag, kept"] if track["rotation"] else []
        extras += [f"tiles of {track['tile']} px"] if track["tile"] else []
        table.add_row(f"video {track['stream']}", f"{track['size']}, " + ", ".join(extras))
        if track["overlays"]:
            places = "; ".join("x {} y {}, {}x{}".format(*box) for box in track["overlays"])
            table.add_row("  burnt-in text", f"{places}: kept below SDR white, hidden from the network")
        if track["excluded"]:
            table.add_row("  excluded", f"{len(track['excluded'])} polygons: kept as recorded")
        for name, (value, reason) in track["color"].items():
            table.add_row(f"  {name.replace('_', ' ')}", f"{value}: {reason}")
        if track["temporal_radius"]:
            motion = choose_method(torch.device(facts["device"]))
            table.add_row("  smoothed over", f"{track['temporal_radius']} frames on either side; {motion}")
        if track["drive"]:
            table.add_row("  drive", track["drive"])
        if track["denoise_strength"]:
            table.add_row("  denoised", f"with strength {track['denoise_strength']:g}: its keyframes show blocks")
        lengths = sorted(frames for _, frames in track["spans"])
        table.add_row("  spans", f"{len(lengths)}, of {lengths[0]} to {lengths[-1]} frames")
    for entry in (Entry(**facts) for facts in facts["account"]):
        if entry.outcome != "converted":
            table.add_row(entry.name, f"{entry.what}: {entry.fate} ({entry.reason})")
    restores = "" if facts["restores_highlights"] else " (not trained: restores no highlights)"
    table.add_row("model", f"{facts['model']}{restores}, {facts['precision']} on {facts['device']}")
    table.add_row("arithmetic", facts["numerics_class"])
    seen = "" if facts["scale"] == 1 else " (reconstruct sees the half-size picture)"
    table.add_row("stages", " -> ".join(facts["stages"]) + seen)
    table.add_row(
        "light",
        f"{facts['transfer'].upper()}, SDR white at {facts['white_nits']:g} nits, peak {facts['peak_nits']:g} nits",
    )
    table.add_row("encoder", f"{facts['encoder_settings']}: {facts['encoder_reason']}")
    limit = facts["work_limit_bytes"]
    stopped = f"; the file is stopped when its work folder passes {limit / 1e6:.0f} MB" if limit else ""
    table.add_row("disk", f"about {facts['disk_need_bytes'] / 1e6:.0f} MB while working, by estimate{stopped}")
    for warning in facts["warnings"]:
        table.add_row("note", warning)
    console.print(table, markup=False, highlight=False)


def print_results(console: Console, reports: list[FileReport]) -> None:
    """Print one row a file, then warnings and errors in full."""
    table = Table(pad_edge=False)
    for title, side in (("file", "left"), ("status", "left"), ("frames", "right"), ("spans done / reused", "right")):
        table.add_column(title, justify=side, overflow="fold")  # type: ignore[arg-type]
    for title in ("seconds", "MaxCLL", "MaxFALL"):
        table.add_column(title, justify="right")
    for report in reports:
        light = [str(value) if value is not None else "-" for value in (report.max_cll_nits, report.max_fall_nits)]
        spans = f"{report.spans_done} / {report.spans_reused}"
        table.add_row(
            Path(report.source).name, report.status, str(report.frames), spans, f"{report.seconds:.1f}", *light
        )
    console.print(table, markup=False, highlight=False)
    for report in reports:
        for warning in report.warnings:
            console.print(f"{report.source}: note: {warning}", markup=False, highlight=False, soft_wrap=True)
        if report.error:
            console.print(
                f"{report.source}: {report.status}: {report.error}", markup=False, highlight=False, soft_wrap=True
            )
        elif report.status in ("done", "already done"):
            for path in (report.output, *report.beside):
                console.print(path, markup=False, highlight=False, soft_wrap=True)
