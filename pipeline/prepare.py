"""Prepare: look at a source, decide everything, and leave a work folder that any worker can take spans from."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from configs.schema import STAGES, Config, result_settings
from pipeline.color import OutputSpec
from pipeline.drive_files import join_drive
from pipeline.encoder_choice import CONTAINERS as CODEC_CONTAINERS
from pipeline.encoder_choice import X265_MIN_WIDTH
from pipeline.errors import InputError
from pipeline.frame_files import frame_paths
from pipeline.index import VideoIndex
from pipeline.ledger import Ledger, files_of
from pipeline.looks import Looks
from pipeline.machine import Machine, find_model, planned_settings_hash, this_machine
from pipeline.memory_need import refuse_too_large
from pipeline.places import CONTAINERS, work_folder
from pipeline.plan import (
    PLAN_VERSION,
    Plan,
    Track,
    busy_stages,
    kinds_beside,
    span_key,
)
from pipeline.probe import StreamInfo, VideoInfo, hdr_reason
from pipeline.proxy import Proxy, proxy_size
from pipeline.span_work import PLAN_NAME, index_name, lent_name
from pipeline.stages.reconstruct import choose_tile, network_size
from pipeline.track_maker import make_track

TILE_BUDGET_BYTES = {"cpu": 1_500_000_000, "cuda": 16_000_000_000}
BITS_A_PIXEL_AT_CRF_10 = 1.0
BITS_A_PIXEL = {"prores_ks": 4.0, "ffv1": 6.0}
"""highway_960x540.mp4 took 3.0 with ProRes 422 HQ and 3.6 with FFV1; Apple's target for 422 HQ at 1080p is 3.5."""
BYTES_A_PIXEL_OF_A_FRAME = 6
"""Of a picture with 16 bits a channel, before compression, which noise defeats."""


@dataclass(frozen=True)
class Prepared:
    """A conversion that is decided but not done. lent: for each track, indices of the neighbours of its drive, by "before" and "after"."""

    source: Path
    output: Path
    info: VideoInfo
    plan: Plan
    indices: tuple[VideoIndex, ...]
    fps: Fraction | None
    color_overrides: dict[str, str]
    settings: dict[str, Any]
    frames: tuple[Path, ...] = ()
    lent: tuple[dict[str, VideoIndex], ...] = ()

    @property
    def workdir(self) -> Path:
        """Where plan, ledger and span files live until the output is complete."""
        return work_folder(self.output)


def choose_container(output: Path, wanted: str, codec: str = "hevc") -> str:
    """mp4, mov or mkv, from the setting or the file's name.

    Raises InputError when they disagree, the name says nothing, or the codec does not go into it.
    """
    by_name = CONTAINERS.get(output.suffix.lower())
    if by_name is None:
        raise InputError(f"{output}: the output's name must end in one of {', '.join(CONTAINERS)}.")
    if wanted not in ("auto", by_name):
        raise InputError(f"{output}: the name says {by_name}, output.container says {wanted}; make them agree.")
    if by_name not in CODEC_CONTAINERS[codec]:
        legal = ", ".join(f".{name}" for name in CODEC_CONTAINERS[codec])
        raise InputError(f"{output}: output.codec={codec} does not go into {by_name}; legal endings: {legal}.")
    return by_name


def refuse_output(source: Path, output: Path) -> None:
    """Raise InputError when the output is the source itself or a folder. Writes nothing."""
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"{output}: the output is the source itself; name another file.")
    if output.is_dir():
        raise InputError(f"{output}: is a folder; name a file, or give several inputs to fill a folder.")


def check_output(source: Path, output: Path) -> None:
    """Raise InputError as `refuse_output` does, and when the place cannot be written; makes the output's folder."""
    refuse_output(source, output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        trial = output.parent / f".{output.name}.writable"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(
            f"{output}: cannot be written there ({error.strerror}); choose another output folder."
        ) from error


def make_plan(
    source: Path,
    output: Path,
    config: Config,
    frames: tuple[Path, ...] = (),
    looks: Looks | None = None,
    machine: Machine | None = None,
) -> Prepared:
    """Probe and index the source and resolve every `auto`. Writes nothing.

    looks: what finds out about the source (default: anew); machine: what will convert it (default: this machine)
    Raises InputError with one sentence when the source cannot be converted as asked.
    """
    refuse_too_large(source, config.workers.memory_bytes)
    looks = looks or Looks()
    info = looks.probe(source)
    streams = _chosen_streams(info, config)
    machine = machine or this_machine(config, looks)
    device, encoder, precision = machine.device, machine.encoder, machine.precision
    model_path, model = find_model(config.model, device, looks)
    warnings: list[str] = []
    if not model.spec.restores_highlights:
        warnings.append(
            f"checkpoint '{model.spec.name}' is not trained: highlights are not restored, the SDR picture is kept."
        )
    indices, tracks, lent = [], [], []
    fps = _rate_asked(config, info)
    if fps is not None and not info.has_no_clock:
        warnings.append(f"--fps {fps} is not used: the file has its own timestamps, and they are kept.")
    overrides = color_overrides(config)
    budget_bytes = config.reconstruct.tile_budget_bytes or TILE_BUDGET_BYTES[device]
    for stream in streams:
        reason = hdr_reason(stream)
        if reason and not config.input.force:
            raise InputError(
                f"{source}: is HDR already ({reason}); nothing to restore. --force converts it all the same."
            )
        if reason:
            warnings.append(
                f"forced although {reason}: its codes are read as SDR, so its light will be wrong unless that tag is."
            )
        index = looks.index(source, stream.index, fps, config.input.salvage)
        seen = network_size(stream.height, stream.width, config.reconstruct.scale)
        tile = choose_tile(model, *seen, precision, budget_bytes)
        track, notes = make_track(source, stream, index, config, tile, overrides, looks)
        neighbours: dict[str, VideoIndex] = {}
        if config.drive.join and not track.radius:
            notes.append("drive.join: nothing is smoothed over time here (temporal.radius), so no neighbour is read.")
        elif config.drive.join:
            place, neighbours = join_drive(source, track, overrides)
            track = replace(track, drive=place)
            notes += filter(None, [place.lacks()])
        lent.append(neighbours)
        indices.append(index)
        tracks.append(track)
        warnings += notes
    kinds = () if config.extras.frames == "none" else (config.extras.frames,)
    proxy = _proxy_name(source, config, tracks)
    plan = Plan(
        version=PLAN_VERSION,
        source=str(source.resolve()),
        source_bytes=source.stat().st_size,
        output=str(output.resolve()),
        container=choose_container(output, config.output.container, encoder.codec),
        model=model.spec.name,
        model_path=model_path,
        model_sha256=model.spec.sha256,
        model_restores_highlights=model.spec.restores_highlights,
        device=device,
        precision=precision,
        numerics_class=machine.numerics_class,
        stages=_active_stages(config, tracks),
        strict=config.input.strict,
        out=OutputSpec(config.output.transfer, config.grade.white_nits, config.grade.peak_nits, encoder.chroma),
        encoder=encoder,
        settings_hash=planned_settings_hash(config, machine),
        tracks=tuple(tracks),
        warnings=tuple(warnings),
        decoder=config.input.decoder,
        scale=config.reconstruct.scale,
        stage_options={"grade": grade_options(config)},
        extras=tuple(name for name, wanted in asdict(config.extras).items() if wanted is True) + kinds + proxy,
    )
    if kinds and not frames:
        frames = frame_paths(output, tracks[0].frames, *kinds)
    prepared = Prepared(
        source, output, info, plan, tuple(indices), fps, overrides, result_settings(config), frames, tuple(lent)
    )
    limit_bytes = round(config.workers.work_limit * disk_need_bytes(prepared))
    return replace(prepared, plan=replace(plan, work_limit_bytes=limit_bytes))


def _proxy_name(source: Path, config: Config, tracks: list[Track]) -> tuple[str, ...]:
    if config.extras.proxy == "none":
        return ()
    proxy = Proxy(config.extras.proxy, config.extras.proxy_width)
    narrowest = min(proxy_size(track.width, track.height, proxy.width)[0] for track in tracks)
    if proxy.kind == "hlg" and narrowest < X265_MIN_WIDTH:
        raise InputError(
            f"{source}: extras.proxy=hlg needs a picture of {X265_MIN_WIDTH} pixels across, this has {narrowest}; legal: none, sdr."
        )
    return (proxy.name,)


def save_indices(prepared: Prepared) -> None:
    """Write the indices of all tracks and of what neighbours lend into the work folder, where workers look for them."""
    for number, index in enumerate(prepared.indices):
        index.save(prepared.workdir / index_name(number))
    for number, neighbours in enumerate(prepared.lent):
        for side, index in neighbours.items():
            index.save(prepared.workdir / lent_name(number, side))


def span_keys(prepared: Prepared) -> dict[tuple[int, int], str]:
    """(track, span) -> the key that its ledger line carries."""
    return {
        (number, span.number): span_key(prepared.plan, track, span, prepared.indices[number])
        for number, track in enumerate(prepared.plan.tracks)
        for span in track.spans
    }


def open_work(prepared: Prepared, keys: dict[tuple[int, int], str]) -> dict[tuple[int, int], dict[str, Any]]:
    """Write the plan unless it is there, remove what is of no use, and return the ledger lines of finished spans.

    The caller holds the folder's lock, and the indices are in it. keys: see `span_keys`
    """
    folder = prepared.workdir
    text = prepared.plan.to_json()
    path = folder / PLAN_NAME
    if not path.exists() or path.read_text() != text:
        partial = path.with_suffix(".part")
        partial.write_text(text)
        partial.replace(path)
    finished = Ledger(folder).finished()
    wanted = kinds_beside(prepared.plan.extras)
    done = {
        place: finished[key]
        for place, key in keys.items()
        if key in finished and wanted <= finished[key].get("beside", {}).keys()
    }
    keep = {name for line in done.values() for name in files_of(line)}
    for stray in [*folder.glob("span_*"), *folder.glob(".span_*"), *folder.glob("final.*")]:
        if stray.name not in keep:
            stray.unlink(missing_ok=True)  # the last worker of a killed driver may be removing it as well
    return done


def check_space(prepared: Prepared) -> None:
    """Raise InputError when the disk has less room than the work and the output will likely need.

    What an earlier run left in the work folder is there already and needs no room.
    """
    need = disk_need_bytes(prepared) - sum(file.stat().st_size for file in prepared.workdir.glob("span_*"))
    folder = prepared.output.parent
    free = shutil.disk_usage(folder).free
    if free < need:
        raise InputError(
            f"{folder}: no space left for this conversion, about {need / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; "
            "free some space or choose another output folder."
        )


def disk_need_bytes(prepared: Prepared) -> int:
    """Estimate of what the work folder and the output take together: spans, the joined file, and the copied streams.

    By bits a pixel: real clips took 0.3 to 0.7 at libx265's default crf 10; six crf steps halve or double that. For encoders without a
    crf by what they take a pixel (BITS_A_PIXEL).
    """
    pixels = sum(track.width * track.height * track.frames for track in prepared.plan.tracks)
    encoder = prepared.plan.encoder
    if encoder.crf is None:
        bits_a_pixel = BITS_A_PIXEL[encoder.encoder]
    else:
        bits_a_pixel = BITS_A_PIXEL_AT_CRF_10 * 2 ** ((10 - encoder.crf) / 6)
    pictures = 2 * BYTES_A_PIXEL_OF_A_FRAME * pixels if prepared.frames else 0
    return round(2 * pixels * bits_a_pixel / 8) + pictures + prepared.plan.source_bytes + 1_000_000


def _chosen_streams(info: VideoInfo, config: Config) -> list[StreamInfo]:
    videos = [stream for stream in info.streams if stream.kind == "video" and not stream.attached_pic]
    wanted = config.input.video
    if wanted == "all":
        return videos
    number = 0 if wanted == "first" else int(wanted)
    if number >= len(videos):
        raise InputError(
            f"{info.path}: --video {number} does not exist; the file has {len(videos)} video streams, 0 to {len(videos) - 1}."
        )
    return [videos[number]]


def _rate_asked(config: Config, info: VideoInfo) -> Fraction | None:
    rate = rate_asked(config)
    if rate is None and info.has_no_clock:
        raise InputError(
            f"{info.path}: a raw stream has no timestamps; say its frame rate, for example --fps 20 or --fps 30000/1001."
        )
    return rate


def rate_asked(config: Config) -> Fraction | None:
    """`input.fps`, None where it is auto. Raises InputError when it is no legal rate."""
    if config.input.fps == "auto":
        return None
    try:
        rate = Fraction(config.input.fps)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"--fps {config.input.fps}: not a frame rate; write for example 25 or 30000/1001.") from error
    if not 0 < rate <= 1000:
        raise InputError(f"--fps {config.input.fps}: legal: above 0, at most 1000.")
    return rate


def color_overrides(config: Config) -> dict[str, str]:
    """The `input.*` colour settings that the user gave."""
    names = ("matrix", "range", "transfer", "primaries", "chroma_location")
    return {name: getattr(config.input, name) for name in names if getattr(config.input, name) != "auto"}


def grade_options(config: Config) -> dict[str, float]:
    """What grade is told beside the light levels of the output."""
    return {key: value for key, value in asdict(config.grade).items() if key not in ("white_nits", "peak_nits")}


def _active_stages(config: Config, tracks: list[Track]) -> tuple[str, ...]:
    """Those of the settings that have something to do in some track, in the order of work."""
    return tuple(name for name in STAGES if name in config.stages and any(name in busy_stages(one) for one in tracks))
