"""Edges: what is done in object stores before a file is planned and after it is joined. Between them everything lies on local files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import av

from pipeline.convert import Joining, WriteReport
from pipeline.convert import join as join_here
from pipeline.earlier import Earlier
from pipeline.errors import InputError
from pipeline.file_report import FileReport
from pipeline.fingerprint import END_BYTES, fingerprint, hash_ends
from pipeline.machine import this_machine
from pipeline.places import CONTAINERS
from pipeline.planning import Asked, Planned, already_done, is_done
from pipeline.telemetry.companions import ENDINGS
from pipeline.telemetry.whole import whole_file
from pipeline.verify import provenance_in
from storage.cell import Note, Remote
from storage.fetch import blocks, fetch
from storage.multipart import JOURNAL_NAME, end_leftover
from storage.publish import check_place, clear, publish, remember_unchanged, to_publish, unchanged
from storage.ranged import RangedFile
from storage.store import RemoteFile, Store
from storage.urls import Url

DEMUXERS = {"mp4": "mov", "mov": "mov", "mkv": "matroska"}


@dataclass(frozen=True)
class RemoteAsked:
    """What is to be converted, by the paths in its cell, and what of it lies in a store."""

    asked: Asked
    remote: Remote


@dataclass(frozen=True)
class RemoteJoining:
    """A conversion whose spans are done, and what of it lies in a store. retry_seconds: how long a store is waited for"""

    joining: Joining
    remote: Remote
    retry_seconds: float


class RemoteEarlier(Earlier):
    """Answers about an output in a store, by one listing and ranged reads."""

    def __init__(self, store: Store, remote: Remote, frames: bool) -> None:
        super().__init__(remote.local_output)
        assert remote.output is not None
        self._store, self._remote = store, remote
        stem = remote.local_output.stem
        found = store.below(remote.output.parent, f"{stem}.")
        found += store.below(remote.output.parent, f"{stem}_frames/") if frames else []
        self._files = {one.url: one for one in found}
        self._facts: dict[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        if self._facts is None:
            self._facts = provenance_in(self.tags(self.output)).facts
        return self._facts

    def has(self, path: Path) -> bool:
        return self._remote.url_of(path) in self._files

    def tags(self, path: Path) -> dict[str, str]:
        file = self._files.get(self._remote.url_of(path))
        return {} if file is None or not file.size else _tags(RangedFile(self._store, file), path.suffix)

    def companions(self) -> list[RemoteFile]:
        """What has the output's name and the ending of a companion file."""
        return _companions(self._files.values(), self.output.stem)


def plan(asked: RemoteAsked, plan_file: Callable[[Asked, Earlier], Planned | FileReport]) -> Planned | FileReport:
    """Fetch what a conversion needs, unless its output is made already, and plan it.

    Whether it is made, two MiB of the source and a little of the output tell; --paranoid fetches the source.
    Raises InputError and ConversionError as pipeline.planning does, and as stores do.
    """
    remote, config = asked.remote, asked.asked.config
    here = dataclasses.replace(asked.asked, machine=asked.asked.machine or this_machine(config))
    if remote.source is not None and config.drive.join:
        raise InputError(
            f"{remote.source}: drive.join reads a file's neighbours, which would all have to be fetched; copy the drive to a disk, or leave it out."
        )
    remote.make()
    patience = config.workers.storage_retry_seconds
    earlier = Earlier(here.output)
    if remote.output is not None:
        store = _store(remote.output, patience, Note(remote.cell, "looking at", remote.output, 0))
        end_leftover(store, remote.cell / JOURNAL_NAME)
        earlier = RemoteEarlier(store, remote, config.extras.frames != "none")
    if (done := _done_already(here, remote, earlier)) is not None:
        _drop(remote)
        return done
    if remote.output is not None:
        if earlier.exists() and not earlier.facts() and not here.overwrite:
            raise InputError(
                f"{remote.output}: there is an object already, which Sunvisor did not make; --overwrite replaces it."
            )
        check_place(store, remote.output, remote.cell / JOURNAL_NAME)
        present = [_fetch_small(store, file, remote.cell / "out" / file.url.name) for file in earlier.companions()]
        remember_unchanged(remote, present)
    if remote.source is not None:
        _fetch_source(remote, patience)
    try:
        found = plan_file(here, earlier)
    except InputError:
        remote.drop_source()
        for file in unchanged(remote):
            file.unlink()
        raise
    if isinstance(found, FileReport):
        _drop(remote)
    return found


def join(asked: RemoteJoining, write_report: WriteReport | None) -> FileReport:
    """Join a conversion's spans, publish what that made, and remove the local copies of it and of the source."""
    remote = asked.remote
    report = join_here(asked.joining, write_report)
    if remote.output is not None:
        size = sum(file.stat().st_size for file in to_publish(remote))
        note = Note(remote.cell, "publishing", remote.output, size)
        publish(_store(remote.output, asked.retry_seconds, note), remote, note)
    remote.drop_source()
    return report


def _drop(remote: Remote) -> None:
    """The output is made: nothing in the cell is needed, also when a run was killed just after it had published."""
    remote.drop_source()
    if remote.output is not None:
        clear(remote)


def _done_already(asked: Asked, remote: Remote, earlier: Earlier) -> FileReport | None:
    """The report of an output that is made already, as far as that can be told without fetching the source."""
    machine, config = asked.machine, asked.config
    facts = earlier.facts()
    if not facts or machine is None:
        return None
    ends = None if remote.source is None else _ends(remote.source, config.workers.storage_retry_seconds, remote.cell)
    quick = fingerprint(asked.source, asked.output, config, machine, asked.run, ends)
    return (
        already_done(asked, facts, machine.model_restores_highlights) if is_done(asked, earlier, facts, quick) else None
    )


def _ends(source: Url, patience: float, cell: Path) -> tuple[int, str]:
    store = _store(source, patience, Note(cell, "looking at", source, 0))
    file = _existing(store, source)
    first = store.read(source, 0, min(END_BYTES, file.size)) if file.size else b""
    last = store.read(source, max(0, file.size - END_BYTES), file.size) if file.size > END_BYTES else first
    return file.size, hash_ends([file.size], first, last)


def _fetch_source(remote: Remote, patience: float) -> None:
    assert remote.source is not None
    note = Note(remote.cell, "fetching", remote.source, remote.size)
    store = _store(remote.source, patience, note)
    for file in _companions(
        store.below(remote.source.parent, f"{remote.local_source.stem}."), remote.local_source.stem
    ):
        if file.url != remote.source:
            _fetch_small(store, file, remote.cell / "in" / file.url.name)
    fetch(store, _existing(store, remote.source), remote.local_source, note)


def _fetch_small(store: Store, file: RemoteFile, target: Path) -> Path:
    """Fetch a companion file. A file that is there is replaced."""
    with whole_file(target) as partial, partial.open("wb") as out:
        for start, end in blocks(file.size):
            out.write(store.read(file.url, start, end))
    return target


def _companions(files: Iterable[RemoteFile], stem: str) -> list[RemoteFile]:
    """Those that lie in the folder itself, with that stem and a companion's ending."""
    names = [(file, PurePosixPath(file.url.name)) for file in files]
    return [file for file, name in names if name.stem == stem and name.suffix.lower() in ENDINGS]


def _existing(store: Store, url: Url) -> RemoteFile:
    file = store.info(url)
    if file is None:
        raise InputError(f"{url}: there is no such object.")
    return file


def _store(url: Url, patience: float, note: Note) -> Store:
    return Store(url.scheme, patience, tell=note.waiting)


def _tags(file: RangedFile, suffix: str) -> dict[str, str]:
    """The tags of a video that is read from a store; empty when it is none. What is in it may open nothing else."""
    demuxer = DEMUXERS[CONTAINERS[suffix.lower()]]
    try:
        with av.open(
            file, format=demuxer, options={"protocol_whitelist": "none"}, metadata_errors="replace"
        ) as container:
            return dict(container.metadata)
    except (av.FFmpegError, ValueError):
        return {}
