"""Every setting and its default. Profiles (the YAML files beside this one) and `key=value` words override them.

Two kinds of settings: those of `workers` say how the work is done, those of `extras` what is written beside the result, and neither
changes a byte of it; all others are the *result* settings: they are hashed, recorded in the output's provenance tag, and part of every span's key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from configs.layers import get, merge, read_words, read_yaml
from pipeline.errors import InputError

PROFILE_DIR = Path(__file__).parent
EXECUTION_SECTIONS = ("workers", "extras")
STAGES = ("denoise", "deband", "overlay", "reconstruct", "temporal", "grade")
"""All stages, in the order in which they work."""


@dataclass
class InputConfig:
    """How the source is read. `auto` takes what the file says; what it does not say is decided by rule and explained in the plan.

    matrix, range, transfer, primaries, chroma_location: how the source's colours are coded, where the file is wrong or silent; `inspect`
        says what was read, and why
    deinterlace: auto = where frames are found to be interlaced
    fps, video, force, strict, salvage: as the flags of `convert`
    decoder: "nvdec" decodes on the GPU where that opens, and sees less of a file's damage (pipeline/hardware.py)
    """

    matrix: str = "auto"
    range: str = "auto"
    transfer: str = "auto"
    primaries: str = "auto"
    chroma_location: str = "auto"
    deinterlace: str = "auto"
    decoder: str = "software"
    fps: str = "auto"
    video: str = "first"
    force: bool = False
    strict: bool = False
    salvage: bool = False


@dataclass
class ReconstructConfig:
    """The network. Frames whose working memory would pass `tile_budget_bytes` run as overlapping tiles; 0 = by device.

    scale: 0.5 runs it on the half-size picture and carries its gains to full size along edges: three to four times faster, a little
    less exact (pipeline/gain_map.py)
    """

    tile_budget_bytes: int = 0
    scale: float = 1.0


@dataclass
class DenoiseConfig:
    """Blocks and ringing of strong compression, smoothed before the network. strength: 0 = off, 1 suits Motion JPEG, 2 is the most; null = 1
    where keyframes show blocks, else 0."""

    strength: float | None = None


@dataclass
class OverlayConfig:
    """Burnt-in clocks, speed, place and logos: kept a little below SDR white and sharp, and hidden from the network.

    find: look for them in keyframes of the whole file
    boxes: where they are, if you know better: [[x, y, width, height], ...] in pixels of the picture
    """

    find: bool = True
    boxes: list[list[int]] = field(default_factory=list)


@dataclass
class ExcludeConfig:
    """Parts of the picture that belong to the car, not the scene: bonnet, dashboard, dirt. They keep the SDR picture, nothing is restored there.

    find: look for the bonnet in keyframes of the whole file
    boxes: [[x, y, width, height], ...]; polygons: [[x1, y1, x2, y2, x3, y3, ...], ...]; both in pixels of the picture
    """

    find: bool = False
    boxes: list[list[int]] = field(default_factory=list)
    polygons: list[list[int]] = field(default_factory=list)


@dataclass
class TemporalConfig:
    """Smoothing of the restored light over time. radius: frames looked at before and after each, 0 = off (the profile dashcam has it on)."""

    radius: int = 0


@dataclass
class DriveConfig:
    """Cameras cut a drive into files. join: smoothing over time looks into the files before and after, which lie in the same folder, so that
    brightness does not jump where one file ends and the next begins (pipeline/drive.py)."""

    join: bool = False


@dataclass
class GradeConfig:
    """Where SDR white lands and how high highlights may go, in nits (cd/m2), and how the picture looks between.

    exposure_stops: all light brighter or darker; highlights: the stops above white times this, 0 = none, 1 = the network's; saturation: 0 =
    grey; shoulder: share of peak_nits from which on highlights are rolled off, 1 = clipped at the peak
    """

    white_nits: float = 203.0
    peak_nits: float = 1000.0
    exposure_stops: float = 0.0
    highlights: float = 1.0
    saturation: float = 1.0
    shoulder: float = 0.8


@dataclass
class OutputConfig:
    """The HDR file: transfer function, codec and container. crf null = the encoder's transparent default, preset null likewise.

    codec: hevc and av1 are for players; prores (10-bit 4:2:2, preset hq or 422) is for editing and goes into .mov and .mkv; ffv1
        (10-bit 4:2:0, lossless) is for archives and goes into .mkv
    container: auto = by the output's ending; in a folder the codec's own (mp4, for prores mov, for ffv1 mkv)
    """

    transfer: str = "pq"
    codec: str = "hevc"
    encoder: str = "auto"
    crf: int | None = None
    preset: str | None = None
    container: str = "auto"


@dataclass
class ExtrasConfig:
    """What is written beside OUTPUT.mp4, in the same pass.

    mask: OUTPUT.mask.mp4, which says of every pixel how much of it came from the network
    hdr10plus: OUTPUT.hdr10plus.json, dynamic metadata (ST 2094-40) for hdr10plus_tool
    evidence: OUTPUT.evidence.json, hashes of source, model, settings and result, and what was counted
    report: OUTPUT.report.html, the conversion in pictures and curves
    manifest: OUTPUT.streams.json, what became of every stream, box, tag and companion file, even where all of it is in the output
    proxy: OUTPUT.proxy.mp4, a small video that plays on anything: sdr (8-bit BT.709, highlights folded in) or hlg (10-bit)
    proxy_width: the most pixels that the proxy is wide
    frames: every frame as a picture file: png16 (linear, 65535 = peak_nits), png16pq (PQ, BT.2020) or exr (half float, 1.0 = SDR white)
    """

    mask: bool = False
    hdr10plus: bool = False
    evidence: bool = False
    report: bool = False
    manifest: bool = False
    proxy: str = "none"
    proxy_width: int = 1280
    frames: str = "none"


@dataclass
class SpanConfig:
    """How long the pieces are that a video is cut into; a finished span is never done again."""

    target_seconds: float = 4.0
    min_seconds: float = 2.0
    max_seconds: float = 10.0


@dataclass
class WorkersConfig:
    """Execution only: nothing here changes a byte. count 0 = `per_gpu` a GPU, or one for the CPU; threads 0 = all cores shared out.

    per_gpu: workers that share a GPU: more keep it busy while others encode, and each needs the network's memory
    stall_seconds: a worker, or a process that plans or joins a file, in which nothing has moved for so long is killed, and its work tried again
        as after a crash; slow work that moves is never killed. 0 = never. Raise it where a disk may take longer than that over a single call
    work_limit: a work folder that passes so many times the plan's estimate stops its file, 0 = no limit
    memory_bytes: what a worker has; a picture that needs more is refused. 0 = what the machine has that plans
    keep_work: OUTPUT.work stays when the output is published
    retries: attempts at a span, a file or the start of a worker
    address: as the flag --address
    metrics_port: port on 127.0.0.1 where Prometheus collects a run's numbers, 0 = none (docs/monitoring.md)
    log: file for a log of the run in JSON lines, rotated by size; null = none
    topology: fused = a worker decodes, computes and encodes in one process; stream = in three, which may be on other nodes: for GPU nodes with
        too few cores to encode (docs/cluster.md says when)
    storage_folder: where conversions from and to object stores are worked on (docs/storage.md); null = ~/.cache/sunvisor/storage. On a cluster a
        folder that all nodes share
    storage_retry_seconds: for how long an object store that does not answer is waited for
    max: with count 0 on a cluster the pool follows the cluster's size, up to that many workers; 0 = as many as fit
    """

    count: int = 0
    max: int = 0
    topology: str = "fused"
    per_gpu: int = 1
    threads: int = 0
    address: str | None = None
    retries: int = 3
    stall_seconds: float = 600.0
    keep_work: bool = False
    work_limit: float = 3.0
    memory_bytes: int = 0
    metrics_port: int = 0
    log: str | None = None
    storage_folder: str | None = None
    storage_retry_seconds: float = 600.0


@dataclass
class Config:
    """All settings. model: a shipped checkpoint's name or a .safetensors path; auto = the best that is shipped for the device.

    device: where the network runs
    precision: auto = the fastest without visible loss; fp16 on CUDA alone
    stages: which may run, in the order of STAGES; docs/architecture.md says what each does
    """

    model: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    input: InputConfig = field(default_factory=InputConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    overlay: OverlayConfig = field(default_factory=OverlayConfig)
    exclude: ExcludeConfig = field(default_factory=ExcludeConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    drive: DriveConfig = field(default_factory=DriveConfig)
    grade: GradeConfig = field(default_factory=GradeConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    extras: ExtrasConfig = field(default_factory=ExtrasConfig)
    span: SpanConfig = field(default_factory=SpanConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)


LEGAL: dict[str, tuple[str, ...] | tuple[float, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "input.matrix": ("auto", "bt709", "bt601", "bt2020"),
    "input.range": ("auto", "limited", "full"),
    "input.transfer": ("auto", "bt1886", "srgb", "linear"),
    "input.primaries": ("auto", "bt709", "bt601-525", "bt601-625", "bt2020"),
    "input.chroma_location": ("auto", "left", "center", "topleft", "top", "bottomleft", "bottom"),
    "input.deinterlace": ("auto", "on", "off"),
    "input.decoder": ("software", "nvdec"),
    "reconstruct.scale": (1, 0.5),
    "output.transfer": ("pq", "hlg"),
    "extras.proxy": ("none", "sdr", "hlg"),
    "extras.frames": ("none", "png16", "png16pq", "exr"),
    "output.codec": ("hevc", "av1", "prores", "ffv1"),
    "output.encoder": ("auto", "libx265", "libsvtav1", "hevc_nvenc", "av1_nvenc", "prores_ks", "ffv1"),
    "output.container": ("auto", "mp4", "mov", "mkv"),
    "workers.topology": ("fused", "stream"),
}

RANGES: dict[str, tuple[float, float]] = {
    "denoise.strength": (0, 2),
    "temporal.radius": (0, 3),
    "grade.exposure_stops": (-4, 4),
    "grade.highlights": (0, 2),
    "grade.saturation": (0, 2),
    "grade.shoulder": (0.1, 1),
    "grade.white_nits": (50, 1000),
    "grade.peak_nits": (100, 10000),
    "output.crf": (0, 63),
    "extras.proxy_width": (64, 7680),
    "reconstruct.tile_budget_bytes": (0, 1 << 40),
    "span.target_seconds": (0.5, 60),
    "span.min_seconds": (0.25, 60),
    "span.max_seconds": (0.5, 120),
    "workers.count": (0, 100_000),
    "workers.max": (0, 100_000),
    "workers.per_gpu": (1, 16),
    "workers.threads": (0, 1024),
    "workers.retries": (1, 100),
    "workers.stall_seconds": (0, 1_000_000),
    "workers.work_limit": (0, 1000),
    "workers.memory_bytes": (0, 1 << 50),
    "workers.metrics_port": (0, 65535),
    "workers.storage_retry_seconds": (0, 1_000_000),
}


def profiles() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in PROFILE_DIR.glob("*.yaml") if not path.stem.startswith("train_"))


def recipes() -> list[str]:
    """The shipped training configurations, as paths from the project's folder."""
    return sorted(f"configs/{path.name}" for path in PROFILE_DIR.glob("train_*.yaml"))


def load_config(
    profile: str | None = None, config_file: Path | None = None, overrides: list[str] | None = None
) -> Config:
    """Defaults, then the profile, then the user's YAML file, then `key=value` words; later ones win.

    Raises InputError that names the key and lists the legal keys or values.
    """
    layers: list[tuple[DictConfig, str]] = []
    if profile is not None:
        if profile not in profiles():
            raise InputError(f"--profile {profile}: there is no such profile; legal: {', '.join(profiles())}.")
        layers.append((read_yaml(PROFILE_DIR / f"{profile}.yaml"), f"profile {profile}"))
    if config_file is not None:
        layers.append((read_yaml(config_file), str(config_file)))
    config = merge(Config, [*layers, *read_words(overrides or [], "grade.peak_nits=600")])
    _check(config)
    return config


def result_settings(config: Config) -> dict[str, Any]:
    """The settings that decide the bytes, as plain JSON-able data."""
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in EXECUTION_SECTIONS}


def settings_hash(settings: dict[str, Any]) -> str:
    """blake2b-128 (hex) of settings written as canonical JSON."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()


def _check(config: Config) -> None:
    for key, legal in LEGAL.items():
        value = get(config, key)
        if value not in legal:
            raise InputError(f"{key}={value}: not a legal value; legal: {', '.join(map(str, legal))}.")
    for key, (low, high) in RANGES.items():
        value = get(config, key)
        if value is not None and not low <= value <= high:
            raise InputError(f"{key}={value}: out of range; legal: {low:g} to {high:g}.")
    unknown = [stage for stage in config.stages if stage not in STAGES]
    if unknown or len(set(config.stages)) != len(config.stages):
        raise InputError(f"stages={config.stages}: legal stages, each at most once: {', '.join(STAGES)}.")
    if config.grade.peak_nits < config.grade.white_nits:
        raise InputError(
            f"grade.peak_nits={config.grade.peak_nits:g} lies below grade.white_nits={config.grade.white_nits:g}; the peak must be at least white."
        )
    if config.output.transfer == "hlg" and (config.grade.white_nits, config.grade.peak_nits) != (203.0, 1000.0):
        raise InputError(
            "output.transfer=hlg is made for a 1000-nit display with white at 203 nits; leave grade.white_nits and grade.peak_nits alone."
        )
    if config.extras.hdr10plus and config.output.transfer != "pq":
        raise InputError(
            "extras.hdr10plus tells absolute light and goes with output.transfer=pq only; switch one of them."
        )
    if not config.span.min_seconds <= config.span.target_seconds <= config.span.max_seconds:
        raise InputError("span: min_seconds <= target_seconds <= max_seconds must hold.")
    video = config.input.video
    if video not in ("first", "all") and not video.isdigit():
        raise InputError(f"input.video={video}: legal: first, all, or the number of a video stream (0, 1, ...).")
