"""Found: a source that a command line means, on a disk or in a store, and which names count as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePath

from pipeline.sequence import Run
from storage.store import RemoteFile

VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".mts",
        ".m2ts",
        ".mpg",
        ".mpeg",
        ".3gp",
        ".flv",
        ".wmv",
        ".mjpeg",
        ".mjpg",
        ".h264",
        ".264",
        ".avc",
        ".hevc",
        ".h265",
        ".265",
    ]
)


@dataclass(frozen=True)
class Found:
    """source: a file here, or an object of a store; inside: its place below the folder that is mirrored

    root: that folder, of a file here; run: the pictures that it stands for
    """

    source: Path | RemoteFile
    inside: PurePath
    root: Path = Path()
    run: Run | None = None


def is_hidden(inside: PurePath) -> bool:
    """Work folders and hidden files are no input. inside: the place below the folder that is looked through"""
    return any(part.endswith(".work") or part.startswith(".") for part in inside.parts)


def is_glob(word: str) -> bool:
    """Has it a wildcard?"""
    return any(sign in word for sign in "*?[")


def fixed_parts(parts: Sequence[str]) -> list[str]:
    """Of the parts of a glob the folders before the first wildcard; what lies below them is mirrored."""
    return list(takewhile(lambda part: not is_glob(part), parts[:-1]))
