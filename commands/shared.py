"""What all commands share: how one is added to the parser, and JSON on standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from storage.urls import SCHEMES, Url, is_url, parse_url


def add_command(
    commands: Any,  # noqa: ANN401 - argparse does not name this type publicly
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add a command: its name, what runs it (parsed words -> exit code), one line of help, and what stands below the options."""
    parser = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def place_of(text: str) -> Path | Url:
    """A word that names a place: a path, or the URL of an object store. Raises InputError for other URLs."""
    return parse_url(text) if is_url(text) else Path(text)


def refuse_urls(command: str, *words: Path | str) -> None:
    """Raise InputError when a word is the URL of an object store, which this command cannot read."""
    for word in words:
        scheme, _, rest = str(word).partition(":/")  # a Path has one slash of the two
        if scheme in SCHEMES and rest:
            url = f"{scheme}://{rest.lstrip('/')}"
            raise InputError(f"{url}: {command} reads local files only; download it first (convert takes URLs).")


def print_json(data: dict[str, Any]) -> None:
    """Print data as JSON on standard output; what JSON does not know becomes text."""
    sys.stdout.write(json.dumps(data, indent=1, default=str) + "\n")
