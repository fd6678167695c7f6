"""Shows: what a tab looks at: a file with its exact plan, or a live source."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from configs.schema import STAGES, Config
from pipeline import engine as engines
from pipeline.color import OutputSpec
from pipeline.encoder_choice import resolve_encoder
from pipeline.looks import Looks
from pipeline.machine import choose_precision, find_model
from pipeline.plan import PLAN_VERSION, Plan, Track, busy_stages
from pipeline.prepare import TILE_BUDGET_BYTES, grade_options
from pipeline.stages.reconstruct import choose_tile, network_size
from preview.ladder import Rung, rungs_of
from preview.live import LiveSource
from preview.media import Planned
from preview.sources import Source

TICKS = 90_000
QUICK_PIXELS = 260_000
"""Pixels that the network sees in about a quarter of a second on one core (bench/preview.py)."""


def live_plan(live: LiveSource, name: str, config: Config, looks: Looks) -> Plan:
    """What a live source is shown by: the settings of a plan that need no file. It has no spans, and is for showing only.

    Frames are not smoothed over time, and text is found nowhere: neither can be known of a stream that has only begun.
    """
    device = engines.resolve_device(config.device)
    model_path, model = find_model(config.model, device, looks)
    precision = choose_precision(config.precision, device, model)
    budget_bytes = config.reconstruct.tile_budget_bytes or TILE_BUDGET_BYTES[device]
    seen = network_size(live.height, live.width, config.reconstruct.scale)
    denoise = (config.denoise.strength or 0.0) if "denoise" in config.stages else 0.0
    track = Track(
        stream_index=0,
        width=live.width,
        height=live.height,
        layout=live.layout,
        color=live.color,
        color_reasons=live.color_reasons,
        deinterlace=False,
        rate=Fraction(live.rate),
        sample_aspect_ratio=None,
        rotation=0,
        time_base_den=TICKS,
        ticks=1,
        frames=0,
        duration_seconds=0.0,
        content_hash="",
        tile=choose_tile(model, *seen, precision, budget_bytes),
        spans=(),
        denoise=denoise,
    )
    busy = busy_stages(track)
    return Plan(
        version=PLAN_VERSION,
        source=name,
        source_bytes=0,
        output="",
        container="mp4",
        model=model.spec.name,
        model_path=model_path,
        model_sha256=model.spec.sha256,
        model_restores_highlights=model.spec.restores_highlights,
        device=device,
        precision=precision,
        numerics_class=engines.numerics_class(device),
        stages=tuple(stage for stage in STAGES if stage in config.stages and stage in busy),
        strict=False,
        out=OutputSpec(config.output.transfer, config.grade.white_nits, config.grade.peak_nits),
        encoder=resolve_encoder(config.output, device),
        settings_hash="",
        tracks=(track,),
        scale=config.reconstruct.scale,
        stage_options={"grade": grade_options(config)},
    )


def opened(number: int, source: Source, plan: Plan, planned: Planned | None) -> dict[str, Any]:
    """The message `opened`. planned: of a file; None for a live source"""
    track = plan.tracks[0]
    return {
        "source": number,
        "name": source.name,
        "width": track.width,
        "height": track.height,
        "frames": track.frames,
        "fps": float(track.rate),
        "duration_seconds": track.duration_seconds,
        "live": planned is None,
        "warnings": list(plan.warnings),
    }


def without_look(planned: Planned) -> str:
    """What to say of a plan that is not exact yet."""
    return (
        ""
        if planned.exact
        else "Looking at the file for burnt-in text and compression blocks; this picture is without them."
    )


def quick_rung(plan: Plan) -> Rung:
    """The best rung on which a frame is there soon on a CPU, for a first look."""
    pixels = plan.tracks[0].width * plan.tracks[0].height
    return next(
        (rung for rung in rungs_of(plan) if not rung.temporal and rung.cost * pixels <= QUICK_PIXELS),
        rungs_of(plan)[-1],
    )


def whole_quality(plan: Plan) -> dict[str, Any]:
    """`quality` of the message `state`, of a paused frame: nothing is lowered."""
    track = plan.tracks[0]
    size = {"width": track.width, "height": track.height}
    return {"network_scale": plan.scale, **size, "temporal_radius": track.radius, "text": ""}
