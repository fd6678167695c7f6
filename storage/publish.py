"""Publish: what was made beside an output, and the output last, into an object store. Each object appears when it is complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import ConversionError
from storage.cell import PUBLISHED_ALREADY, Note, Remote
from storage.multipart import JOURNAL_NAME, Multipart, check_writable, end_leftover
from storage.store import Store, seconds_for
from storage.urls import Url


def check_place(store: Store, url: Url, journal: Path) -> None:
    """Raise InputError when an output cannot be written there: better before hours of work than after. journal: as of send"""
    if url.scheme == "s3":
        check_writable(store, url, journal)
    else:
        store.check_bucket(url)


def send(store: Store, file: Path, url: Url, journal: Path, sent: Callable[[int], object] = lambda count: None) -> None:
    """Upload one file, whole or not at all, and see that it is there.

    journal: remembers an upload in parts; sent: told how many bytes more are there
    """
    size = file.stat().st_size
    if url.scheme == "s3":
        Multipart(store, url, journal).send(file, sent)
    else:
        store.patient(url, lambda: store.ask("put_file", str(file), url.path, seconds=seconds_for(size)))
        sent(size)
    found = store.info(url)
    if found is None or found.size != size:
        there = "nothing is" if found is None else f"{found.size} bytes are"
        raise ConversionError(f"{url}: {size} bytes were written and {there} there; run the same command again.")


def publish(store: Store, remote: Remote, note: Note) -> list[Url]:
    """Upload everything that a cell's output folder holds and that is to be published, the output last, then remove it there.

    Returns where all of it is.
    """
    assert remote.output is not None
    journal = remote.cell / JOURNAL_NAME
    end_leftover(store, journal)
    files = to_publish(remote)
    there = unchanged(remote)
    for file in files:
        if file not in there:
            send(store, file, remote.url_of(file), journal, note.add)
    clear(remote)
    return [remote.url_of(file) for file in files]


def clear(remote: Remote) -> None:
    """Remove from a cell what is in the store."""
    files = to_publish(remote)
    for file in files:
        file.unlink(missing_ok=True)
    for folder in {file.parent for file in files} - {remote.cell / "out"}:
        shutil.rmtree(folder, ignore_errors=True)


def to_publish(remote: Remote) -> list[Path]:
    """Files of a cell's output folder that go to the store, the output itself last: all but work folders, logs and half-written ones."""
    top, main = remote.cell / "out", remote.local_output
    found = []
    for path in sorted(top.rglob("*")):
        parts = path.relative_to(top).parts
        ours = any(part.startswith(".") or part.endswith((".work", ".part")) for part in parts)
        if path.is_file() and not ours and path not in (main, top / f"{main.name}.error.log"):
            found.append(path)
    return [*found, main]


def remember_unchanged(remote: Remote, files: list[Path]) -> None:
    """Note files in a cell's output folder that are in the store already, as they are."""
    facts = {str(file): _stamp(file) for file in files}
    (remote.cell / PUBLISHED_ALREADY).write_text(json.dumps(facts))


def unchanged(remote: Remote) -> set[Path]:
    """Those of them that nobody wrote to since."""
    try:
        facts = json.loads((remote.cell / PUBLISHED_ALREADY).read_text())
    except (OSError, ValueError):
        return set()
    return {Path(name) for name, stamp in facts.items() if Path(name).is_file() and _stamp(Path(name)) == stamp}


def _stamp(file: Path) -> list[int]:
    facts = file.stat()
    return [facts.st_size, facts.st_mtime_ns]
