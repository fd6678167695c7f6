"""Drive: files that one camera recorded one right after the other. Pure functions over what names and headers say.

Where anything is unsure, files are not joined, and the reason is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from pipeline.drive_name import DriveName, read_name

TOLERANCE_SECONDS = 1.0
"""Names and most headers tell whole seconds, so the distance of two starts is known to a second."""
RATE_TOLERANCE = 0.02
"""Share by which the average rates of two files may differ: that of a short file is less exact than the camera."""
NAMELESS = "its name has no single time or number that puts it in order"


@dataclass(frozen=True)
class Picture:
    """A video stream as the header has it. rate: frames per second, 0 = not said; tags: colour as numbers (ITU-T H.273)."""

    codec: str
    width: int
    height: int
    pix_fmt: str
    rate: float
    tags: tuple[int, ...] = ()


@dataclass(frozen=True)
class Heading:
    """What places a file in a drive.

    name: of the file, without folder; seconds: length of its first video stream, 0 = not said
    created: the container's creation_time, UTC; some cameras write when the recording ended
    pictures: its video streams; problem: why the file cannot be read, else empty
    """

    name: str
    seconds: float
    created: datetime | None
    pictures: tuple[Picture, ...]
    problem: str = ""


@dataclass(frozen=True)
class Drive:
    """Files of one drive in order of time. before, after: why nothing comes before the first and after the last."""

    names: tuple[str, ...]
    before: str
    after: str


def group_drives(headings: Iterable[Heading]) -> tuple[Drive, ...]:
    """Group the files of one folder into drives: each file is in exactly one, whatever their order.

    headings: names are unique
    """
    cameras: dict[str, list[tuple[DriveName, Heading]]] = {}
    for heading in headings:
        name = read_name(heading.name)
        cameras.setdefault(name.camera, []).append((name, heading))
    return tuple(drive for camera in sorted(cameras) for drive in _drives_of(cameras[camera]))


def _drives_of(files: list[tuple[DriveName, Heading]]) -> list[Drive]:
    """Drives of one camera."""
    files = sorted(files, key=lambda file: (file[0].place, file[1].name))
    claims = Counter(name.place for name, _ in files)
    ends = _writes_the_end([heading for _, heading in files])
    gaps = [_gap(*file, *following, claims, ends) for file, following in pairwise(files)]
    first = "no file of this camera comes right before it" if files[0][0].place else NAMELESS
    last = "no file of this camera comes right after it" if files[-1][0].place else NAMELESS
    drives, members, before = [], [files[0][1].name], first
    for gap, (_, heading) in zip(gaps, files[1:], strict=True):
        if gap:
            drives.append(Drive(tuple(members), before, gap))
            members, before = [], gap
        members.append(heading.name)
    return [*drives, Drive(tuple(members), before, last)]


def _writes_the_end(files: list[Heading]) -> bool:
    """Does this camera write into creation_time when a recording ended? Whichever reading makes more of its files follow each other."""
    pairs = [pair for pair in pairwise(files) if all(one.created and one.seconds for one in pair)]
    steps = [((second.created - first.created).total_seconds(), first, second) for first, second in pairs]
    as_start = sum(abs(step - first.seconds) <= TOLERANCE_SECONDS for step, first, _ in steps)
    as_end = sum(abs(step - second.seconds) <= TOLERANCE_SECONDS for step, _, second in steps)
    return as_end > as_start


def _gap(
    name: DriveName, first: Heading, other: DriveName, second: Heading, claims: Counter[tuple[float, ...]], ends: bool
) -> str:
    """Why `second` does not go on where `first` ended; empty when it does.

    claims: how many files of the camera claim a place; ends: creation_time is when a recording ended
    """
    if not (name.place and other.place):
        return NAMELESS
    for one, heading in ((name, first), (other, second)):
        if claims[one.place] > 1:
            return f"{heading.name} and another file here say the same time or number"
    for one in (first, second):
        if one.problem:
            return f"{one.name} cannot be read ({one.problem})"
    if differs := _difference(first, second):
        return f"{second.name} {differs}"
    if first.seconds <= TOLERANCE_SECONDS:
        return f"{first.name} lasts {first.seconds:g} s, too short for its clock to say what follows"
    made = None if first.created is None or second.created is None else (second.created - first.created).total_seconds()
    if name.chapters:
        return _chapter_gap(name, first, other, second, made)
    if name.clock is not None and other.clock is not None:
        lag = (other.clock - name.clock).total_seconds() - first.seconds
        unlike = made is not None and made != 0 and not _fits(made, first, second)
        if abs(lag) <= TOLERANCE_SECONDS and unlike:
            return f"the clocks in the names of {first.name} and {second.name} and their creation times disagree"
        return _told(lag, first, second)
    if made is None:
        return f"neither names nor headers of {first.name} and {second.name} say when they were recorded"
    return _told(made - (second if ends else first).seconds, first, second)


def _chapter_gap(name: DriveName, first: Heading, other: DriveName, second: Heading, made: float | None) -> str:
    """The same for chapters: the next number follows, unless creation times say otherwise; all chapters may have the same one."""
    (recording, chapter), (other_recording, other_chapter) = name.place, other.place
    if recording != other_recording:
        return f"{second.name} is another recording than {first.name}"
    if other_chapter != chapter + 1:
        return f"a chapter between {first.name} and {second.name} is missing"
    if made and not _fits(made, first, second):
        return f"the chapters of {first.name} and {second.name} and their creation times disagree"
    return ""


def _fits(made: float, first: Heading, second: Heading) -> bool:
    """Is the distance of two creation times that of neighbours, if it is the time of the start, or of the end?"""
    return min(abs(made - first.seconds), abs(made - second.seconds)) <= TOLERANCE_SECONDS


def _told(lag: float, first: Heading, second: Heading) -> str:
    if abs(lag) <= TOLERANCE_SECONDS:
        return ""
    if lag < 0:
        return f"{second.name} starts {-lag:.1f} s before {first.name} ends"
    return f"{second.name} starts {lag:.1f} s after {first.name} ends"


def _difference(first: Heading, second: Heading) -> str:
    """In what the pictures of `second` differ from those of `first`; empty: in nothing."""
    if len(first.pictures) != len(second.pictures):
        return f"has {len(second.pictures)} video streams, {first.name} has {len(first.pictures)}"
    for one, two in zip(first.pictures, second.pictures, strict=True):
        if one.codec != two.codec:
            return f"is {two.codec}, {first.name} is {one.codec}"
        if (one.width, one.height) != (two.width, two.height):
            return f"is {two.width}x{two.height}, {first.name} is {one.width}x{one.height}"
        if one.pix_fmt != two.pix_fmt or one.tags != two.tags:
            return f"has other colours ({two.pix_fmt}) than {first.name} ({one.pix_fmt})"
        if abs(one.rate - two.rate) > RATE_TOLERANCE * max(one.rate, two.rate):
            return f"has {two.rate:.4g} frames a second, {first.name} has {one.rate:.4g}"
    return ""
