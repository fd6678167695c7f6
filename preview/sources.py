"""Sources: what the preview was given to show. Clients choose one by its number and never name a path."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.places import CONTAINERS
from pipeline.sequence import Run
from preview.live import shown

OUTPUT_SUFFIX = ".mp4"


@dataclass(frozen=True)
class Source:
    """One thing to show.

    name: as the page shows it; kind: "video", "pictures" or "live"
    words: how `convert` is told of it; empty where it cannot be converted
    path: the video file; run: the pictures; address: the camera or stream; the one of its kind, the others None
    output: where a conversion from the page goes; None where there is none
    """

    name: str
    kind: str
    words: tuple[str, ...] = ()
    path: Path | None = None
    run: Run | None = None
    address: str | None = None
    output: Path | None = None

    @property
    def where(self) -> str:
        """What it is called in the terminal."""
        return str(self.path) if self.path is not None else self.name


def video_source(path: Path, folder: Path | None) -> Source:
    """A video file. folder: where conversions go (default: beside it)."""
    return Source(path.name, "video", (str(path),), path=path, output=_output(path.stem, folder or path.parent))


def pictures_source(run: Run, folder: Path | None, *, alone: bool) -> Source:
    """Numbered pictures. folder: where conversions go (default: beside theirs); alone: nothing else to convert lies in theirs."""
    place = run.files[0].parent
    name = place.resolve().name if alone else run.name
    words = (str(place),) if alone else _words(run)
    return Source(name, "pictures", words, run=run, output=_output(name, folder or place.resolve().parent))


def live_source(address: str) -> Source:
    """A camera or a stream. A password in its address is not shown."""
    return Source(shown(address), "live", address=address)


def with_own_outputs(sources: Iterable[Source]) -> tuple[Source, ...]:
    """The sources, checked. Raises InputError when two would be converted into one file, or there is none."""
    found = tuple(sources)
    seen: dict[Path, Source] = {}
    for source in found:
        other = seen.setdefault(source.output, source) if source.output is not None else source
        if other is not source:
            raise InputError(
                f"{source.name}: would be converted into {source.output}, as {other.name} would; show them one by one."
            )
    if not found:
        raise InputError(
            "preview: nothing to show; give a video, a folder of videos or pictures, a camera or a stream."
        )
    return found


def _output(stem: str, folder: Path) -> Path:
    assert OUTPUT_SUFFIX in CONTAINERS
    return folder / f"{stem}_hdr{OUTPUT_SUFFIX}"


def _words(run: Run) -> tuple[str, ...]:
    """A glob that means the run alone, else its files."""
    first = run.files[0]
    same = next(
        (
            place
            for place, letters in enumerate(zip(*(file.stem for file in run.files), strict=False))
            if len(set(letters)) > 1
        ),
        0,
    )
    pattern = f"{glob.escape(first.stem[:same])}*{first.suffix}"
    if same and set(first.parent.glob(pattern)) == set(run.files):
        return (str(first.parent / pattern),)
    return tuple(map(str, run.files))
