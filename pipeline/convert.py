"""Convert: one video from source to published output. Planning, spans and joining may be done here, or anywhere by whoever calls."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import Config
from pipeline.assemble import TrackSpans, assemble
from pipeline.encode import publish
from pipeline.errors import ConversionError, SunvisorError
from pipeline.extras import Finished, extra_paths, write_extras
from pipeline.file_report import FileReport
from pipeline.fingerprint import QUICK_KEY
from pipeline.hdr10 import ContentLight, MasteringDisplay
from pipeline.index import VideoIndex
from pipeline.ledger import LEDGER_NAME, Ledger, WorkLock
from pipeline.light import LightLevels
from pipeline.places import work_folder
from pipeline.planning import Asked, Planned, plan_file, stamp_of
from pipeline.prepare import check_output, check_space, open_work
from pipeline.sequence import Run
from pipeline.sidecars import write_sidecars
from pipeline.span_job import no_space_named, run_span
from pipeline.span_work import index_name
from pipeline.streams import plan_copies
from pipeline.telemetry.account import account_of
from pipeline.verify import PROVENANCE_KEY, verify
from pipeline.version import VERSION

WriteReport = Callable[[Finished, Path], None]
"""Writes the report of a finished conversion to a path."""

Lines = dict[tuple[int, int], dict[str, Any]]
"""Ledger line of each (track, span)."""


class Conversion:
    """A conversion under way: which spans are done, which are pending. It owns the lock and the ledger of the work folder."""

    def __init__(self, planned: Planned, lock: WorkLock, done: Lines) -> None:
        self.planned = planned
        self.prepared = planned.prepared
        self.plan = planned.prepared.plan
        self.workdir = planned.prepared.workdir
        self.lines = dict(done)
        self.reused = len(done)
        self._lock = lock
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

    def to_join(self) -> Joining:
        """What `join` wants to know, small enough to be sent to another process."""
        return Joining(self.planned.without_indices(), self.lines, self.reused)

    def finish(self, *, keep_work: bool = False, write_report: WriteReport | None = None) -> FileReport:
        """`join` here, and `joined`."""
        report = join(self.to_join(), write_report)
        self.joined(report, keep_work=keep_work)
        return report

    def joined(self, report: FileReport, *, keep_work: bool = False) -> None:
        """The output is published: complete its report, and remove the work folder."""
        report.seconds = round(time.monotonic() - self._started, 2)
        if keep_work:
            self.close()
            return
        try:
            self._lock.remove_folder()
        except OSError as error:
            report.warnings.append(f"{self.workdir}: cannot be removed ({error.strerror}); nothing in it is needed.")

    def close(self) -> None:
        """Let go of the work folder; what is done stays."""
        self._lock.release()


@dataclass(frozen=True)
class Joining:
    """A conversion whose spans are all done. lines: of all of them; reused: how many of them an earlier run had done"""

    planned: Planned
    lines: Lines
    reused: int


def join(joining: Joining, write_report: WriteReport | None = None) -> FileReport:
    """Join the spans, verify the cheap part, publish, and write what goes beside the output. Done twice, it gives the same.

    The caller holds the lock of the work folder, and removes that afterwards.
    write_report: makes the report where the plan asks for one (`reporting` has it)
    Raises ConversionError, and publishes nothing, when the joined file fails a check, the source is no longer what was planned, or
    the disk is full.
    """
    with no_space_named(joining.planned.prepared.workdir):
        return _Joiner(joining).run(write_report)


class _Joiner:
    def __init__(self, joining: Joining) -> None:
        bare = joining.planned.prepared
        indices = tuple(VideoIndex.load(bare.workdir / index_name(number)) for number in range(len(bare.plan.tracks)))
        self.prepared = dataclasses.replace(bare, indices=indices)
        self.planned = joining.planned
        self.plan = bare.plan
        self.workdir = bare.workdir
        self.lines = joining.lines
        self.reused = joining.reused

    def run(self, write_report: WriteReport | None) -> FileReport:
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
        extras = [path for paths in extra_paths(prepared).values() for path in paths]
        return FileReport(
            source=str(prepared.source),
            output=str(prepared.output),
            status="done",
            frames=plan.frames,
            spans_done=len(self.lines) - self.reused,
            spans_reused=self.reused,
            max_cll_nits=light.max_cll_nits,
            max_fall_nits=light.max_fall_nits,
            restores_highlights=plan.model_restores_highlights,
            stages=list(plan.stages),
            repeated_frames=repeated,
            redone_in_float32=redone,
            streams=[dataclasses.asdict(copy) for copy in copies],
            account=[entry.to_dict() for entry in saved.entries],
            beside=list(dict.fromkeys(str(path) for path in [*saved.files, *extras])),
            warnings=warnings,
        )

    def _check_source(self) -> None:
        """Raise ConversionError when the source was written to since it was planned: what is copied must be of what was read."""
        source = self.prepared.source
        if stamp_of(source) != self.planned.stamp:
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
        quick = self.planned.fingerprint
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
        } | ({QUICK_KEY: dataclasses.asdict(quick)} if quick else {})


def start(
    source: Path,
    output: Path,
    config: Config,
    *,
    overwrite: bool = False,
    run: Run | None = None,
    frames: tuple[Path, ...] = (),
    paranoid: bool = False,
) -> Conversion | FileReport:
    """Plan a conversion here and open its work folder; a FileReport comes back instead when the output is there already.

    See pipeline.planning.Asked for the arguments.
    Raises InputError when the source cannot be converted, or another file stands where the output would.
    """
    asked = Asked(source, output, config, overwrite, run, frames, paranoid)
    lock = take_lock(source, output)
    try:
        return opened(plan_file(asked), lock)
    except BaseException:
        let_go(lock, output)
        raise


def take_lock(source: Path, output: Path) -> WorkLock:
    """The lock of an output's work folder, which it makes. Raises InputError where the output cannot be, or is another driver's."""
    check_output(source, output)
    with no_space_named(output.parent):
        return WorkLock(work_folder(output))


def opened(found: Planned | FileReport, lock: WorkLock) -> Conversion | FileReport:
    """What planning found -> a conversion to go on with, or the report of an output that is there already.

    Raises InputError when the disk has too little room.
    """
    if isinstance(found, FileReport):
        lock.remove_folder()  # an earlier run may have been stopped just after it had published
        return found
    check_space(found.prepared)
    with no_space_named(found.prepared.workdir):
        return Conversion(found, lock, open_work(found.prepared, found.keys))


def let_go(lock: WorkLock, output: Path) -> None:
    """Planning came to nothing: remove the work folder, unless an earlier run's spans or logs are in there."""
    try:
        names = {path.name for path in work_folder(output).iterdir()}
        if LEDGER_NAME not in names and not any(name.endswith(".log") for name in names):
            lock.remove_folder()
    except OSError:
        pass  # what is left in it does no harm, and why planning failed matters more
    finally:
        lock.release()


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
