"""Fetch: an object into a file, in ranges, so that a kill costs no more than the ranges under way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from pipeline.errors import ConversionError, InputError
from pipeline.heartbeat import beat
from storage.cell import Note
from storage.store import RemoteFile, Shrunk, Store

BLOCK_BYTES = 8 << 20
AT_A_TIME = 4
ATTEMPTS = 3
"""How often an object is begun anew that is written to while it is fetched."""


def blocks(size: int, block_bytes: int = BLOCK_BYTES) -> list[tuple[int, int]]:
    """(start, end) of the ranges that an object of `size` bytes is fetched in: every byte once, in order."""
    return [(start, min(start + block_bytes, size)) for start in range(0, size, block_bytes)]


def fetch(store: Store, wanted: RemoteFile, target: Path, note: Note | None = None) -> RemoteFile:
    """Fetch an object to `target`, which appears when it is complete, and return what was fetched.

    What an earlier call got of the same object is kept. An object that is written to meanwhile is begun anew.
    Raises InputError when it is gone, or the disk has no room; ConversionError when it never stays as it is.
    """
    for _ in range(ATTEMPTS):
        _check_space(wanted, target)
        partial = _Partial(wanted, target)
        if not partial.is_complete():
            with suppress(Shrunk):  # its pin tells, too
                _fetch_missing(store, wanted, partial, note)
        now = store.info(wanted.url)
        if now is None:
            raise InputError(f"{wanted.url}: the object is gone.")
        if now.pin == wanted.pin and not partial.missing:
            partial.finish()
            return wanted
        partial.forget()
        wanted = now
    raise ConversionError(
        f"{wanted.url}: was written to each of {ATTEMPTS} times while it was fetched; convert it once it is complete."
    )


class _Partial:
    """What there is of an object: a sparse file, and a journal with a line for each range that is on disk."""

    def __init__(self, wanted: RemoteFile, target: Path) -> None:
        self.wanted, self.target = wanted, target
        self.blocks = blocks(wanted.size)
        self.path = _partial_of(target)
        self._journal = target.with_name(f".{target.name}.fetched")
        self._head = json.dumps({"pin": wanted.pin, "size": wanted.size, "block": BLOCK_BYTES})
        self._noting = threading.Lock()
        lines = self._lines()
        if not lines or lines[0] != self._head:
            self.forget()
            self._journal.write_text(self._head + "\n")
            lines = []
        self.done = set(range(len(self.blocks))) if self.is_complete() else self._whole(lines[1:])

    def is_complete(self) -> bool:
        """Is the file there, and of this object?"""
        return self.target.is_file() and self.target.stat().st_size == self.wanted.size

    @property
    def missing(self) -> list[int]:
        return [number for number in range(len(self.blocks)) if number not in self.done]

    def add(self, number: int, data: bytes) -> None:
        """Put a range on disk, then note that it is there."""
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            written, start = 0, self.blocks[number][0]
            while written < len(data):  # the last bytes before a full disk may be fewer than were asked for
                written += os.pwrite(handle, memoryview(data)[written:], start + written)
            os.fdatasync(handle)
        finally:
            os.close(handle)
        with self._noting, self._journal.open("a") as file:
            file.write(f"{number} {_digest(data)}\n")
            self.done.add(number)

    def finish(self) -> None:
        """The file gets its name."""
        if not self.is_complete():
            self.path.touch()
            self.path.replace(self.target)

    def forget(self) -> None:
        for path in (self._journal, self.path, self.target):
            path.unlink(missing_ok=True)

    def _lines(self) -> list[str]:
        try:
            return self._journal.read_text().splitlines()
        except OSError:
            return []

    def _whole(self, lines: list[str]) -> set[int]:
        """The ranges that are on disk as they were noted."""
        if not self.path.is_file():
            return set()
        found = set()
        with self.path.open("rb") as file:
            for line in lines:
                number, _, digest = line.partition(" ")
                if not number.isdigit() or int(number) >= len(self.blocks):
                    continue  # cut short by a kill
                start, end = self.blocks[int(number)]
                file.seek(start)
                beat()
                if _digest(file.read(end - start)) == digest:
                    found.add(int(number))
        return found


def _fetch_missing(store: Store, wanted: RemoteFile, partial: _Partial, note: Note | None) -> None:
    def one(number: int) -> int:
        data = store.read(wanted.url, *partial.blocks[number])
        partial.add(number, data)
        return len(data)

    if note is not None:
        note.add(sum(end - start for start, end in (partial.blocks[number] for number in partial.done)))
    pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="fetch")
    try:
        for future in as_completed([pool.submit(one, number) for number in partial.missing]):
            count = future.result()
            if note is not None:
                note.add(count)
    except OSError as error:
        raise InputError(f"{partial.path}: {wanted.url} cannot be written there ({error.strerror}).") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _check_space(wanted: RemoteFile, target: Path) -> None:
    """Before anything is made of the size, which is what the store says. What is there already needs no room."""
    there = [path.stat().st_blocks * 512 for path in (_partial_of(target), target) if path.exists()]
    need = wanted.size - sum(there)
    free = shutil.disk_usage(target.parent).free
    if free < need:
        raise InputError(
            f"{target.parent}: no space left to fetch {wanted.url}: {need / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; free "
            "some space or name another folder with workers.storage_folder."
        )


def _partial_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
