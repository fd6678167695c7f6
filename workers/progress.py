"""Progress on the terminal: a line for each active video and one for the batch, always on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from workers.events import Done, Event, Failed, Progress, Retrying
from workers.stage_shares import StageShares

RATE_WINDOW_SECONDS = 30.0
PLAIN_SECONDS = 5.0
BAR_WIDTH = 24


@dataclass
class Tally:
    """Frames and spans of one video, or of the batch.

    reused: frames that an earlier run had done; they count as done and not in the rate
    guessed: frames that files not yet looked at will likely have
    running: frames so far of each span that is being converted, by the span's key
    """

    name: str
    frames: int
    spans: int
    reused: int = 0
    guessed: int = 0
    done_frames: int = 0
    done_spans: int = 0
    running: dict[str, int] = field(default_factory=dict)
    samples: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def converted(self) -> int:
        """Frames converted by this run so far, those of running spans included."""
        return self.done_frames + sum(self.running.values())

    def sample(self, now: float) -> None:
        """Note how far it is at time `now` (seconds); what is older than the rate's window is forgotten."""
        self.samples.append((now, self.converted))
        while len(self.samples) > 2 and self.samples[1][0] <= now - RATE_WINDOW_SECONDS:
            self.samples.popleft()

    def fps(self) -> float:
        """Frames a second over the last half minute; 0 until something is known."""
        if len(self.samples) < 2:
            return 0.0
        (first, before), (last, after) = self.samples[0], self.samples[-1]
        return max(0.0, (after - before) / (last - first)) if last > first else 0.0

    def eta_seconds(self) -> float | None:
        """How long the rest takes at this rate; None while that cannot be said."""
        rest, fps = self.frames + self.guessed - self.reused - self.converted, self.fps()
        return rest / fps if fps > 0 else None

    def numbers(self) -> dict[str, Any]:
        """For programs. eta_seconds is None while it cannot be said."""
        eta = self.eta_seconds()
        return {
            "spans_done": self.done_spans,
            "spans": self.spans,
            "frames_done": self.reused + self.converted,
            "frames": self.frames + self.guessed,
            "frames_per_second": round(self.fps(), 2),
            "eta_seconds": None if eta is None else round(eta, 1),
        }

    def text(self) -> str:
        """'120/1000 frames, 2/9 spans, 14.2 fps, ETA 1:02'; '120/~5000 frames, 14.2 fps, ETA 5:44' where it is partly a guess."""
        eta = self.eta_seconds()
        total = f"~{self.frames + self.guessed}" if self.guessed else str(self.frames)
        parts = [f"{self.reused + self.converted}/{total} frames"]
        parts += [] if self.guessed else [f"{self.done_spans}/{self.spans} spans"]
        parts += [f"{self.fps():.1f} fps", f"ETA {clock(eta) if eta is not None else '-'}"]
        return ", ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ProgressDisplay:
    """Context manager that shows a batch: live lines on a terminal, elsewhere a line of text every few seconds.

    quiet: show nothing but message(); stream: stderr; now: the clock, for tests
    source_bytes: size of every file of the batch; what has not been looked at is taken to have as many frames a byte as the rest
    note: set it to one word on how the batch is, such as "paused"
    Call add_video() or skip_video() for each file, show(event) for each event of the pool, finish_video() at a video's end.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
        source_bytes: Sequence[int] = (),
    ) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._quiet = quiet
        self._now = now
        self._videos: dict[str, Tally] = {}
        self._active: list[str] = []
        self._batch = Tally("batch", 0, 0)
        self._shares = StageShares()
        self.note = ""
        self._finished = 0
        self._files = len(source_bytes)
        self._unseen_bytes = sum(source_bytes)
        self._seen_bytes = 0
        self._next_plain = now() + PLAIN_SECONDS
        on_terminal = self._console.is_terminal and not quiet
        self._live = Live(console=self._console, get_renderable=self._table, transient=True) if on_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def batch(self) -> Tally:
        """Frames and spans of all videos together, up to date after each call."""
        return self._batch

    def add_file(self, source_bytes: int) -> None:
        """One more file belongs to the batch, which is not looked at yet."""
        self._files += 1
        self._unseen_bytes += source_bytes
        self._guess()

    def numbers(self) -> dict[str, Any]:
        """The batch's numbers, and under "now" those of each file whose spans are being converted, for programs."""
        now = [{"file": self._videos[folder].name} | self._videos[folder].numbers() for folder in list(self._active)]
        return self._batch.numbers() | {"frames_guessed": self._batch.guessed, "now": now}

    def add_video(
        self,
        workdir: str,
        name: str,
        frames: int,
        spans: int,
        reused_frames: int = 0,
        reused_spans: int = 0,
        source_bytes: int = 0,
    ) -> None:
        """Announce a video; workdir is what its SpanTasks carry, and all its tracks count together."""
        self._videos[workdir] = Tally(name, frames, spans, reused=reused_frames, done_spans=reused_spans)
        batch = self._batch
        batch.frames += frames
        batch.spans += spans
        batch.reused += reused_frames
        batch.done_spans += reused_spans
        self._seen_bytes += source_bytes
        self._unseen_bytes -= source_bytes
        self._guess()

    def skip_video(self, name: str, note: str, source_bytes: int = 0) -> None:
        """A file of the batch that is not converted: refused, or done already."""
        self._finished += 1
        self._unseen_bytes -= source_bytes
        self._guess()
        self.message(f"{name}: {note}")

    def show(self, event: Event) -> None:
        """Take in what the pool said."""
        workdir, key = event.task.workdir, event.task.key
        video = self._videos[workdir]
        if workdir not in self._active:
            self._active.append(workdir)
        for tally in (video, self._batch):
            if isinstance(event, Progress):
                tally.running[key] = event.frames
            else:
                tally.running.pop(key, None)
            if isinstance(event, Done):
                tally.done_frames += event.task.frames
                tally.done_spans += 1
            tally.sample(self._now())
        if isinstance(event, Done):
            self._shares.add(event.result, event.seconds)
        if isinstance(event, Retrying):
            self.message(f"{video.name}: span {event.task.span} failed and is tried again. {event.error.message}")
        elif isinstance(event, Failed):
            self.message(
                f"{video.name}: span {event.task.span} given up (attempt {event.attempts}). {event.error.message}"
            )
        if self._live is None and not self._quiet and self._now() >= self._next_plain:
            self._next_plain = self._now() + PLAIN_SECONDS
            self._console.print(self._line(), markup=False, soft_wrap=True)

    def finish_video(self, workdir: str, note: str) -> None:
        """A video is over, well or badly; note says which, e.g. 'done: out/a.mp4'."""
        if workdir in self._active:
            self._active.remove(workdir)
        self._videos[workdir].samples.clear()
        self._finished += 1
        if not self._quiet:
            self.message(f"{self._videos[workdir].name}: {note}")

    def message(self, text: str) -> None:
        """Print one line above the live ones, also when quiet. May be called from any thread."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _guess(self) -> None:
        """How many frames the files not yet looked at have."""
        frames_a_byte = self._batch.frames / self._seen_bytes if self._seen_bytes else 0.0
        self._batch.guessed = round(self._unseen_bytes * frames_a_byte)

    def _total_files(self) -> int:
        return max(self._files, len(self._videos))

    def _count(self) -> str:
        """'3/5 videos', or '3/5 videos, paused' when that is the note."""
        note = f", {self.note}" if self.note else ""
        return f"{self._finished}/{self._total_files()} videos{note}"

    def _line(self) -> str:
        """The batch and its active videos as one line of text."""
        names = ", ".join(self._videos[workdir].name for workdir in self._active)
        return f"{self._count()}, {self._batch_text()}; now: {names or '-'}"

    def _batch_text(self) -> str:
        """The batch's numbers, and what limits it."""
        return ", ".join(filter(None, [self._batch.text(), self._shares.text()]))

    def _table(self) -> Table:
        """The live lines."""
        table = Table.grid(padding=(0, 1))
        videos = [self._videos[workdir] for workdir in list(self._active)]
        rows = [(video.name, video, video.text()) for video in videos]
        for label, tally, text in [*rows, (self._count(), self._batch, self._batch_text())]:
            total = max(1, tally.frames + tally.guessed)
            bar = ProgressBar(total=total, completed=tally.reused + tally.converted, width=BAR_WIDTH)
            table.add_row(label, bar, text)
        return table
