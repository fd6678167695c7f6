"""Convert: one video from source to published output. Spans may be done here, or anywhere by whoever calls."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.schema import Config, DriveConfig
from pipeline.assemble import TrackSpans, assemble
from pipeline.encode import publish
from pipeline.errors import ConversionError, InputError, SunvisorError
from pipeline.extras import Finished, extra_paths, write_extras
from pipeline.file_report import FileReport
from pipeline.frame_files import refuse_frames
from pipeline.hdr10 import ContentLight, MasteringDisplay
from pipeline.ledger import LOCK_NAME, Ledger, WorkLock
from pipeline.light import LightLevels
from pipeline.prepare import Prepared, check_output, check_space, make_plan, open_work, rate_asked, work_folder
from pipeline.proxy_file import proxies_current
from pipeline.sequence import Run, wrap
from pipeline.sidecars import write_sidecars
from pipeline.span_job import no_space_named, run_span
from pipeline.streams import plan_copies
from pipeline.telemetry.account import account_of
from pipeline.verify import PROVENANCE_KEY, read_provenance, verify
from pipeline.version import VERSION

WRAPPED_NAME = "pictures.mov"
"""The file in the work folder that stands for a run of pictures."""

WriteReport = Callable[[Finished, Path], None]
"""Writes the report of a finished conversion to a path."""


class Conversion:
    """A conversion under way: which spans are done, which are pending, and the way to the published file."""

    def __init__(
        self,
        prepared: Prepared,
        lock: WorkLock,
        done: dict[tuple[int, int], dict[str, Any]],
        source_stamp: tuple[int, int],
    ) -> None:
        self.prepared = prepared
        self.plan = prepared.plan
        self.workdir = prepared.workdir
        self.lines = dict(done)
        self.reused = len(done)
        self._lock = lock
        self._source_stamp = source_stamp
        self._ledger = Ledger(self.workdir)
        self._started = time.monotonic()

    @property
    def pending(self) -> list[tuple[int, int]]:
        """(track, span) of every span that is not done, in order."""
        spans = ((number, span.number) for number, track in enumerate(self.plan.tracks) for span in track.spans)
        return [place for place in spans if place not in self.lines]

    @property
    def frames_done(self) -> int:
        """Frames of finished spans."""
        return sum(line["frames"] for line in self.lines.values())

    def span_done(self, line: dict[str, Any]) -> None:
        """Note a finished span in the ledger. Raises ConversionError when the disk is full."""
        with no_space_named(self.workdir):
            self._ledger.append(line)
        self.lines[line["track"], line["span"]] = line

    def finish(self, *, keep_work: bool = False, write_report: WriteReport | None = None) -> FileReport:
        """Join the spans, verify the cheap part, publish, write what goes beside the output, and remove the work folder.

        write_report: makes the report where the plan asks for one (`reporting` has it)
        Raises ConversionError, and publishes nothing, when the joined file fails a check, the source is no longer what was
        planned, or the disk is full.
        """
        with no_space_named(self.workdir):
            result = self._join(write_report)
        if keep_work:
            self.close()
            return result
        try:
            self._lock.remove_folder()
        except OSError as error:
            result.warnings.append(f"{self.workdir}: cannot be removed ({error.strerror}); nothing in it is needed.")
        return result

    def close(self) -> None:
        """Let go of the work folder; what is done stays."""
        self._lock.release()

    def _join(self, write_report: WriteReport | None) -> FileReport:
        """Join, verify and publish."""
        self._check_source()
        prepared, plan = self.prepared, self.plan
        levels = self._levels()
        light = ContentLight.from_levels(levels)
        partial = self.workdir / f"final.{plan.container}"
        converted = {track.stream_index for track in plan.tracks}
        copies = plan_copies(prepared.source, plan.container, converted)
        account = account_of(prepared, copies)
        joined = assemble(
            prepared.source,
            partial,
            self._track_spans(),
            copies,
            container=plan.container,
            codec=plan.encoder.codec,
            mastering=MasteringDisplay(peak_nits=plan.out.peak_nits) if plan.out.transfer == "pq" else None,
            light=(light.max_cll_nits, light.max_fall_nits) if plan.out.transfer == "pq" else None,
            provenance_key=PROVENANCE_KEY,
            provenance=self._provenance(levels),
        )
        account = account.keep(joined, partial)
        report = verify(
            prepared.source,
            partial,
            sidecar_stem=prepared.output,
            to_be_saved={copy.stream for copy in copies if copy.action == "sidecar"},
            boxes_to_be_saved=account.moved_boxes,
            fps=prepared.fps,
            color_overrides=prepared.color_overrides,
        )
        if not report.ok:
            failed = "; ".join(f"{check.name}: {check.detail}" for check in report.checks if not check.ok)
            raise ConversionError(
                f"{prepared.output}: the joined file failed its checks and is not published ({failed})."
            )
        self._check_source()
        write_sidecars(prepared.source, copies, prepared.output, joined.shift_seconds)
        saved = account.save(joined, partial, always="manifest" in plan.extras)
        publish(partial, prepared.output)
        repeated = sum(len(line["repeated"]) for line in self.lines.values())
        redone = sum(line["redone_in_float32"] for line in self.lines.values())
        warnings = [*plan.warnings, *joined.warnings, *saved.warnings]
        if repeated:
            warnings.append(
                f"{repeated} damaged frames were replaced by the last good one, so that timing holds (--strict refuses such files)."
            )
        if strangers := sum(line["unexpected_frames"] for line in self.lines.values()):
            warnings.append(f"the decoder gave {strangers} frames that no packet announces; they are left out.")
        if redone:
            warnings.append(f"{redone} frames were not finite in {plan.precision} and were redone in float32.")
        finished = Finished(
            prepared, self.lines, saved.entries, joined.shift_seconds, joined.output_streams, tuple(warnings)
        )
        warnings += write_extras(finished)
        if "report" in plan.extras and write_report is not None:
            try:
                write_report(finished, extra_paths(prepared)["report"][0])
            except SunvisorError as error:
                warnings.append(f"the report is missing: {error}")
        return FileReport(
            source=str(prepared.source),
            output=str(prepared.output),
            status="done",
            frames=plan.frames,
            spans_done=len(self.lines) - self.reused,
            spans_reused=self.reused,
            seconds=round(time.monotonic() - self._started, 2),
            max_cll_nits=light.max_cll_nits,
            max_fall_nits=light.max_fall_nits,
            restores_highlights=plan.model_restores_highlights,
            stages=list(plan.stages),
            repeated_frames=repeated,
            redone_in_float32=redone,
            streams=[dataclasses.asdict(copy) for copy in copies],
            account=[entry.to_dict() for entry in saved.entries],
            beside=list(dict.fromkeys(str(path) for path in [*saved.files, *_extra_files(prepared)])),
            warnings=warnings,
        )

    def _check_source(self) -> None:
        """Raise ConversionError when the source was written to since it was planned: what is copied must be of what was read."""
        source = self.prepared.source
        if _stamp(source) != self._source_stamp:
            raise ConversionError(
                f"{source}: the file changed while it was converted; nothing is published. Run the same command again once it is "
                "complete: spans that are still the same are reused."
            )

    def _levels(self) -> LightLevels:
        levels = LightLevels(0.0, 0.0, 0.0, 0)
        for line in self.lines.values():
            levels |= LightLevels(**line["levels"])
        return levels

    def _track_spans(self) -> list[TrackSpans]:
        tracks = []
        for number, track in enumerate(self.plan.tracks):
            files = [self.workdir / self.lines[number, span.number]["file"] for span in track.spans]
            index = self.prepared.indices[number]
            tracks.append(
                TrackSpans(track, tuple(files), index.frame_pts * track.ticks, index.frame_duration * track.ticks)
            )
        return tracks

    def _provenance(self, levels: LightLevels) -> dict[str, Any]:
        """What `verify` reads: which source, settings and checkpoint, where spans start, and the light as it was measured."""
        plan, light = self.plan, ContentLight.from_levels(levels)
        tracks = []
        for number, track in enumerate(plan.tracks):
            facts = {
                "stream": track.stream_index,
                "content_hash": track.content_hash,
                "frames": track.frames,
                "span_starts": [span.first_frame for span in track.spans],
                "repeated": sum(len(self.lines[number, span.number]["repeated"]) for span in track.spans),
                "color": dataclasses.asdict(track.color),
            }
            facts |= {"drive": track.drive.facts()} if track.drive else {}
            tracks.append(facts | ({"fps": str(self.prepared.fps)} if self.prepared.fps else {}))
        return {
            "version": VERSION,
            "identity": plan.identity(),
            "model": plan.model,
            "model_sha256": plan.model_sha256,
            "settings_hash": plan.settings_hash,
            "transfer": plan.out.transfer,
            "white_nits": plan.out.white_nits,
            "peak_nits": plan.out.peak_nits,
            "max_cll": light.max_cll_nits,
            "max_fall": light.max_fall_nits,
            "p9999_nits": round(levels.p9999_nits, 2),
            "tracks": tracks,
        }


def _stamp(source: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns. Raises InputError when the file is gone."""
    try:
        facts = source.stat()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}).") from error
    return facts.st_size, facts.st_mtime_ns


def _extra_files(prepared: Prepared) -> list[Path]:
    return [path for paths in extra_paths(prepared).values() for path in paths]


def _provenance_of(output: Path) -> dict[str, Any]:
    """What an earlier output says of itself; empty when the file is none of ours."""
    try:
        return read_provenance(output).facts
    except InputError:
        return {}


def start(
    source: Path,
    output: Path,
    config: Config,
    *,
    overwrite: bool = False,
    run: Run | None = None,
    frames: tuple[Path, ...] = (),
) -> Conversion | FileReport:
    """Plan a conversion and open its work folder; a FileReport comes back instead when the output is there already.

    Raises InputError when the source cannot be converted, or another file stands where the output would.
    """
    check_output(source, output)
    if run is None:
        return _started(source, output, config, overwrite, frames, None)
    with no_space_named(output.parent):
        lock = WorkLock(work_folder(output))  # first, as the pictures are wrapped into its folder
    try:
        with no_space_named(output.parent):
            source, config = wrapped(run, work_folder(output), config)
        return _started(source, output, config, overwrite, frames, lock)
    except BaseException:
        if {path.name for path in work_folder(output).iterdir()} <= {LOCK_NAME, WRAPPED_NAME}:
            lock.remove_folder()
        else:  # an earlier run's spans are in there
            lock.release()
        raise


def _started(
    source: Path, output: Path, config: Config, overwrite: bool, frames: tuple[Path, ...], lock: WorkLock | None
) -> Conversion | FileReport:
    """`start` of a video file. lock: of the work folder, where the caller has it already."""
    stamp = _stamp(source)
    prepared = make_plan(source, output, config, frames)
    if not output.exists():
        refuse_frames(prepared.frames, overwrite=overwrite)
    else:
        earlier = _provenance_of(output)
        same = earlier.get("identity") == prepared.plan.identity()
        beside = [*prepared.frames, *_extra_files(prepared)]
        if same and all(path.exists() for path in beside) and proxies_current(prepared):
            if prepared.workdir.exists():  # an earlier run was stopped just after it had published
                (lock or WorkLock(prepared.workdir)).remove_folder()
            return FileReport(
                str(source),
                str(output),
                "already done",
                frames=prepared.plan.frames,
                max_cll_nits=earlier.get("max_cll"),
                max_fall_nits=earlier.get("max_fall"),
                restores_highlights=prepared.plan.model_restores_highlights,
            )
        if not (same or overwrite):
            raise InputError(
                f"{output}: there is a file already, made from another source or with other settings; --overwrite replaces it."
            )
    check_space(prepared)
    with no_space_named(prepared.workdir):
        lock, done = open_work(prepared, lock)
    return Conversion(prepared, lock, done, stamp)


def wrapped(run: Run, folder: Path, config: Config) -> tuple[Path, Config]:
    """The file that stands for a run of pictures, made in `folder`, and the settings that it is converted with: pictures are sRGB, and no drive."""
    rate = run.rate(rate_asked(config))
    source = wrap(run, rate, folder / WRAPPED_NAME)
    transfer = "srgb" if config.input.transfer == "auto" else config.input.transfer
    told = dataclasses.replace(config.input, fps="auto", transfer=transfer)
    return source, dataclasses.replace(config, input=told, drive=DriveConfig(join=False))


def convert(
    source: Path,
    output: Path,
    config: Config,
    *,
    overwrite: bool = False,
    threads: int = 1,
    on_frames: Callable[[int, int], None] | None = None,
) -> FileReport:
    """Convert one video in this process, without Ray. on_frames is told (frames done, frames in all)."""
    conversion = start(source, output, config, overwrite=overwrite)
    if isinstance(conversion, FileReport):
        return conversion
    try:
        for track, span in conversion.pending:
            before = conversion.frames_done

            def tell(frames: int, before: int = before) -> None:
                if on_frames is not None:
                    on_frames(before + frames, conversion.plan.frames)

            line = run_span(
                str(conversion.workdir), track, span, threads=threads, on_frames=tell, should_stop=lambda: False
            )
            conversion.span_done(line)
        return conversion.finish(keep_work=config.workers.keep_work)
    finally:
        conversion.close()
