"""Earlier: what stands already where an output is to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av

from pipeline.errors import InputError
from pipeline.verify import read_provenance


class Earlier:
    """Answers about an output and the files beside it, on a disk."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def exists(self) -> bool:
        """Is there a file?"""
        return self.has(self.output)

    def facts(self) -> dict[str, Any]:
        """What an earlier output says of itself; empty when there is none, or it is none of ours."""
        if not self.exists():
            return {}
        try:
            return read_provenance(self.output).facts
        except InputError:
            return {}

    def has(self, path: Path) -> bool:
        """Is there a file beside the output?"""
        return path.exists()

    def tags(self, path: Path) -> dict[str, str]:
        """The tags of a video beside the output; empty when it is not there, or cannot be read."""
        try:
            with av.open(str(path)) as file:
                return dict(file.metadata)
        except (av.FFmpegError, OSError):
            return {}
