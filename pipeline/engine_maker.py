"""The engine that a plan describes, made on this machine; what is dear to make is kept for the next span."""

from __future__ import annotations

import functools
import json

from models import checkpoints
from models.model import Model
from pipeline import engine as engines
from pipeline.cuda_engine import CudaEngine
from pipeline.engine import Engine
from pipeline.errors import ConversionError
from pipeline.plan import Plan, busy_stages, kinds_beside

_kept: dict[tuple, CudaEngine] = {}


def engine_for(plan: Plan, track: int, threads: int = 1) -> Engine | CudaEngine:
    """The engine that a plan describes, on this machine. Raises ConversionError when its arithmetic is another.

    On a GPU it is kept for the next span, with its graph and its pinned memory, unless frames look at their neighbours or come
    with more than their planes: pipeline/lanes.py does that. threads: for what it does on the host
    """
    model, settings = _told(plan, track)
    streams = plan.device == "cuda" and not plan.tracks[track].radius and not kinds_beside(plan.extras)
    return _cuda_engine(*model, settings, threads) if streams else _engine(*model, settings)


def plain_engine(plan: Plan, track: int) -> Engine:
    """The same, frame by frame and step by step on every device. Raises ConversionError as `engine_for`."""
    model, settings = _told(plan, track)
    return _engine(*model, settings)


def _told(plan: Plan, track: int) -> tuple[tuple[str, str, str], tuple]:
    """Which model, and the settings of `_engine`."""
    engines.check_numerics_class(plan.numerics_class, plan.device)
    job = plan.tracks[track]
    model = (plan.model_path, plan.model_sha256, plan.device)
    stages = tuple(name for name in plan.stages if name in busy_stages(job))
    told = plan.stage_options | {"temporal": {"radius": job.radius}, "denoise": {"strength": job.denoise}}
    options, beside = json.dumps(told, sort_keys=True), kinds_beside(plan.extras)
    boxes = job.overlays if "overlay" in stages else ()
    settings = (
        boxes,
        job.excluded,
        beside,
        stages,
        job.layout,
        job.color,
        plan.out,
        plan.precision,
        job.tile,
        plan.scale,
        options,
    )
    return model, settings


@functools.lru_cache(maxsize=2)
def _model(path: str, sha256: str, device: str) -> Model:
    model = checkpoints.load(path, device)
    if model.spec.sha256 != sha256:
        raise ConversionError(
            f"{path}: the checkpoint is not the one that the plan names; run the command again to plan anew."
        )
    return model


def _engine(path: str, sha256: str, device: str, settings: tuple) -> Engine:
    names = ("boxes", "excluded", "beside", "stage_names", "layout", "color", "out", "precision", "tile", "scale")
    *plain, options = settings
    told = dict(zip(names, plain, strict=True)) | {"options": json.loads(options)}
    return Engine(model=_model(path, sha256, device), device=device, **told)


def _cuda_engine(path: str, sha256: str, device: str, settings: tuple, threads: int) -> CudaEngine:
    """The last one made, or a new one in its place: two would not share the GPU's memory well."""
    key = (path, sha256, device, settings, threads)
    if key not in _kept:
        while _kept:
            _kept.popitem()[1].close()
        _kept[key] = CudaEngine(_engine(path, sha256, device, settings), threads=threads)
    return _kept[key]
