"""Fingerprint: what tells in 2 MiB of reading whether an output was made from this source and with these settings.

It goes by content and settings, never by a name or a time. What it cannot see is a source that changed in its middle and has the same
size and the same first and last MiB; `--paranoid` reads everything instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import Config
from pipeline.drive_files import drive_of
from pipeline.errors import InputError
from pipeline.machine import Machine, planned_settings_hash
from pipeline.plan import PLAN_VERSION
from pipeline.prepare import choose_container, rate_asked
from pipeline.sequence import Run

END_BYTES = 1 << 20
QUICK_KEY = "quick"
"""Where it stands in an output's provenance."""


@dataclass(frozen=True)
class Fingerprint:
    """bytes: size of the source, of all its pictures together; ends: hash (hex) of the sizes and of the first and last MiB

    key: hash (hex) of these, of the neighbours that a drive lends, and of everything else that decides the output's bytes
    """

    bytes: int
    ends: str
    key: str


def fingerprint(
    source: Path,
    output: Path,
    config: Config,
    machine: Machine,
    run: Run | None = None,
    ends: tuple[int, str] | None = None,
) -> Fingerprint:
    """The fingerprint of a conversion that may be done already. Raises InputError when the source cannot be read.

    run: the pictures that are the source; ends: size and hash_ends() of a source that is not here
    """
    size, hashed = ends or _ends([source] if run is None else run.files)
    facts: list[Any] = [PLAN_VERSION, planned_settings_hash(config, machine), machine.model_sha256]
    facts += [
        machine.numerics_class,
        choose_container(output, config.output.container, machine.encoder.codec),
        size,
        hashed,
    ]
    facts += [str(run.rate(rate_asked(config))) if run is not None else None]
    facts += [_neighbours(source) if config.drive.join and run is None else None]
    return Fingerprint(size, hashed, hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest())


def _neighbours(source: Path) -> list[tuple[int, str] | None]:
    """Of the files before and after in the drive, whether they lend anything or not."""
    drive = drive_of(source)
    at = drive.names.index(source.name)
    places = [at - 1, at + 1]
    return [_ends([source.parent / drive.names[one]]) if 0 <= one < len(drive.names) else None for one in places]


def hash_ends(sizes: Sequence[int], first: bytes, last: bytes) -> str:
    """Hash (hex) of the sizes of a source's files, the first file's first END_BYTES and the last file's last ones; fewer where it is shorter."""
    state = hashlib.blake2b(digest_size=16)
    for part in (json.dumps(list(sizes)).encode(), first, last):
        state.update(part)
    return state.hexdigest()


def _ends(files: Sequence[Path]) -> tuple[int, str]:
    """Size of all files, and their hash_ends()."""
    try:
        sizes = [file.stat().st_size for file in files]
        with files[0].open("rb") as file:
            first = file.read(END_BYTES)
        with files[-1].open("rb") as file:
            file.seek(max(0, sizes[-1] - END_BYTES))
            return sum(sizes), hash_ends(sizes, first, file.read(END_BYTES))
    except OSError as error:
        raise InputError(f"{error.filename or files[0]}: cannot be read ({error.strerror}).") from error
