"""The demo: film a drive whose light is known, convert the film, and say how near the result comes to the truth."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from demo.dashcam import DashcamOptions, Recording, record
from demo.scene import Drive, DriveOptions
from evaluation.figure import compare, save_png
from evaluation.metrics import Scores, score
from evaluation.nits import read_nits
from pipeline.errors import InputError

Array = np.ndarray
LIFTED_BY_CODING = 0.02  # share of lost pixels that coding overshoot alone may show as brighter
LIFTED = 1.1  # light above this many SDR whites counts as a highlight shown brighter than SDR could


class Converted(Protocol):
    """What the demo needs to know of a conversion (pipeline.convert.FileReport has it)."""

    frames: int
    max_cll_nits: int | None
    max_fall_nits: int | None
    restores_highlights: bool
    warnings: list[str]


class _Rate(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:5.1f} fps" if task.speed else "  ... fps")


def run_demo(
    output: Path,
    convert: Callable[[Path, Path], Converted],
    *,
    options: DriveOptions | None = None,
    white_nits: float = 203.0,
    peak_nits: float = 1000.0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Render, record, convert and score. `convert(source, result)` makes the HDR10 file or raises.

    The folder `output` gets sdr.mp4, truth.npz, drive_hdr10.mp4, compare.png and report.md; what an earlier demo left under these
    names is removed first. white_nits and peak_nits are those of the conversion.

    Returns "text" (what to tell the user), "files" (name to Path), "sdr" and "hdr" (Scores as dicts) and "lifted_share": of the
    pixels that the SDR lost, those that the result shows above SDR white and the SDR clip itself does not. Raises InputError when
    `output` cannot be written, and what `convert` raises.
    """
    options = options or DriveOptions()
    console = console or Console(stderr=True)
    files = _fresh_folder(output)
    with _progress(console) as progress:
        filming = progress.add_task("rendering the drive", total=options.frames)
        recording = record(
            Drive(options),
            output,
            DashcamOptions(fps=options.fps),
            lambda done: progress.update(filming, completed=done),
        )
    converted = convert(recording.sdr, files["hdr10"])
    shown = int(np.argmax([(frame.max(-1) >= 1.0).mean() for frame in recording.truth]))
    with _progress(console) as progress:
        scoring = progress.add_task("scoring", total=2 * options.frames)
        watch = _Watch(recording, white_nits, shown, lambda: progress.advance(scoring))
        sdr = score(recording.truth, watch.frames(recording.sdr), white_nits, peak_nits)
        sdr_frame = watch.picture
        by_itself = watch.lifted / max(watch.lost, 1)
        watch.lost = watch.lifted = 0
        hdr = score(recording.truth, watch.frames(files["hdr10"]), white_nits, peak_nits)
    lifted = max(watch.lifted / max(watch.lost, 1) - by_itself, 0.0)
    verdict = _verdict(converted.restores_highlights, lifted)
    truth = recording.truth[shown].astype(np.float32) * white_nits
    note = f"Frame {shown} of {options.frames}. {verdict}"
    save_png(compare(sdr_frame, watch.picture, truth, white_nits, note=note), files["picture"])
    files["report"].write_text(_report(recording, converted, sdr, hdr, verdict, shown, white_nits, peak_nits), "utf-8")
    return {
        "text": _summary(files, sdr, hdr, verdict),
        "files": files,
        "sdr": dataclasses.asdict(sdr),
        "hdr": dataclasses.asdict(hdr),
        "lifted_share": lifted,
    }


class _Watch:
    """Passes frames on to the scorer, keeps the one to show, and counts lost pixels that are shown above SDR white."""

    def __init__(self, recording: Recording, white_nits: float, shown: int, on_frame: Callable[[], None]) -> None:
        self._truth, self._white_nits, self._shown, self._on_frame = recording.truth, white_nits, shown, on_frame
        self.picture: Array = np.zeros(recording.truth.shape[1:], np.float32)
        self.lost = self.lifted = 0

    def frames(self, path: Path) -> Iterator[Array]:
        for number, nits in enumerate(read_nits(path, self._white_nits)):
            if number == self._shown:
                self.picture = nits
            if number < len(self._truth):
                lost = self._truth[number].max(-1) >= 1.0
                self.lost += int(lost.sum())
                self.lifted += int((nits.max(-1)[lost] > LIFTED * self._white_nits).sum())
            self._on_frame()
            yield nits


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _fresh_folder(output: Path) -> dict[str, Path]:
    """Paths of everything the demo leaves, with what an earlier run left there removed."""
    names = {
        "sdr": "sdr.mp4",
        "truth": "truth.npz",
        "hdr10": "drive_hdr10.mp4",
        "picture": "compare.png",
        "report": "report.md",
    }
    files = {key: output / name for key, name in names.items()}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path in files.values():
            path.unlink(missing_ok=True)
        work = output / "drive_hdr10.mp4.work"
        if work.is_dir():
            shutil.rmtree(work)
    except OSError as error:
        raise InputError(
            f"{output}: the demo cannot write there ({error.strerror}); choose another --output folder."
        ) from error
    return files


def _verdict(restores_highlights: bool, lifted: float) -> str:
    if not restores_highlights or lifted < LIFTED_BY_CODING:
        return "Highlights are not restored: what the SDR lost stays at SDR white in the HDR10 file."
    return f"{lifted:.0%} of the light that the SDR lost is shown brighter than SDR white."


def _row(name: str, s: Scores) -> str:
    psnr = "equal" if math.isinf(s.pu_psnr) else f"{s.pu_psnr:.1f}"
    return f"| {name} | {s.hl_stops:.3f} | {s.hl_bias:+.3f} | {s.hl_detail:.3f} | {s.mid_stops:.3f} | {psnr} |"


def _report(
    recording: Recording,
    converted: Converted,
    sdr: Scores,
    hdr: Scores,
    verdict: str,
    shown: int,
    white: float,
    peak: float,
) -> str:
    frames, height, width, _ = recording.truth.shape
    gain = np.log2(recording.gain / recording.gain[0])
    largest = max(float(frame.max()) for frame in recording.truth)
    lines = [
        "# Sunvisor demo",
        "",
        f"A synthetic drive of {frames} frames at {width}x{height}, filmed by a simulated dashcam. {sdr.lost_share:.1%} of its pixels "
        f"are lost to clipping; the brightest light is {math.log2(largest):.1f} stops above SDR white; auto exposure moved "
        f"between {gain.min():+.2f} and {gain.max():+.2f} stops.",
        "",
        f"**{verdict}**",
        "",
        "| | hl_stops | hl_bias | hl_detail | mid_stops | pu_psnr |",
        "|---|---|---|---|---|---|",
        _row("the SDR clip itself", sdr),
        _row("the HDR10 result", hdr),
        "| a perfect result | 0 | 0 | 1 | 0 | equal |",
        "",
        f"The result has {converted.frames} frames, MaxCLL {converted.max_cll_nits} and MaxFALL {converted.max_fall_nits} nits.",
        "",
        f"Highlight error (hl_stops), its sign (hl_bias) and structure (hl_detail, a correlation) are over pixels that the SDR lost; "
        f"mid_stops is over well-exposed ones; pu_psnr is over all, in dB. SDR white is {white:.0f} nits, and both sides are limited "
        f"to {0.8 * peak:.0f} nits. The exact definitions are in evaluation/metrics.py.",
        "",
        f"`compare.png` shows frame {shown}: above, SDR as recorded, HDR and truth tone-mapped; below, the window around the sun with "
        "the exposure lowered.",
    ]
    lines += ["", *(f"- {warning}" for warning in converted.warnings)] if converted.warnings else []
    return "\n".join(lines) + "\n"


def _summary(files: dict[str, Path], sdr: Scores, hdr: Scores, verdict: str) -> str:
    return "\n".join(
        [
            verdict,
            f"Error in the lost highlights: SDR {sdr.hl_stops:.3f} stops, HDR10 {hdr.hl_stops:.3f} stops; "
            f"in the mid-tones: {sdr.mid_stops:.3f} and {hdr.mid_stops:.3f}.",
            f"  HDR10 video  {files['hdr10']}",
            f"  comparison   {files['picture']}",
            f"  report       {files['report']}",
            f"  SDR clip     {files['sdr']}",
            f"  truth        {files['truth']}",
        ]
    )
