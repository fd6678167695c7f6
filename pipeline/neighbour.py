"""Neighbours: the files before and after one in its drive, as far as smoothing looks into them. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pipeline.span import Span

SIDES = {"before": "previous file", "after": "next file"}


@dataclass(frozen=True)
class Neighbour:
    """A file that lends some frames at its end or start.

    path: where it lies; span: the frames, in the file's own index, without leads
    packets_hash: blake2b-128 (hex) of the packets that they are decoded from, and of their times
    """

    path: str
    stream_index: int
    span: Span
    packets_hash: str

    @property
    def name(self) -> str:
        """File name without folder."""
        return PurePath(self.path).name


@dataclass(frozen=True)
class DrivePlace:
    """Where a track's file stands in its drive: file `number` (from 1) of `files`.

    before, after: who lends frames; None: nobody
    no_before, no_after: then the reason, else empty
    """

    number: int
    files: int
    before: Neighbour | None
    after: Neighbour | None
    no_before: str
    no_after: str

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> DrivePlace:
        """Rebuild it from dataclasses.asdict."""
        lent = {side: None if data[side] is None else _neighbour(data[side]) for side in SIDES}
        return DrivePlace(**{**data, **lent})

    def sides(self) -> dict[str, tuple[Neighbour | None, str]]:
        """ "before" and "after": who lends frames there, and why nobody does."""
        return {"before": (self.before, self.no_before), "after": (self.after, self.no_after)}

    def facts(self) -> dict[str, Any]:
        """For provenance and evidence: what was read of which neighbour, or why nothing was. No folders."""
        return {
            SIDES[side]: {"name": one.name, "frames": one.span.frames, "packets_hash": one.packets_hash}
            if one is not None
            else {"none": why}
            for side, (one, why) in self.sides().items()
        }

    def told(self) -> str:
        """One line for a plan."""
        lent = [f"{one.span.frames} frames of {one.name}" for one, _ in self.sides().values() if one is not None]
        place = (
            f"file {self.number} of {self.files} of a drive" if self.files > 1 else "no other file of its drive is here"
        )
        return f"{place}; smoothing reads {' and '.join(lent)}" if lent else place

    def lacks(self) -> str:
        """One line that says which neighbour is missing and why; empty when both are there."""
        said = [
            f"{SIDES[side]}: none ({why})" if one is None else f"{SIDES[side]}: {one.name}"
            for side, (one, why) in self.sides().items()
        ]
        return f"drive: {', '.join(said)}" if None in (self.before, self.after) else ""


def _neighbour(data: Mapping[str, Any]) -> Neighbour:
    return Neighbour(**{**data, "span": Span(**data["span"])})
