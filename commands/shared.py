"""What all commands share: how one is added to the parser, and JSON on standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any


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


def print_json(data: dict[str, Any]) -> None:
    """Print data as JSON on standard output; what JSON does not know becomes text."""
    sys.stdout.write(json.dumps(data, indent=1, default=str) + "\n")
