"""Memory need: a picture larger than the machine can convert is refused by its header, before anything of it is decoded.

A file of 163 bytes can claim 16000 x 16000 pixels: sixteen reference frames of it take 6 GB and minutes in a decoder alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from av.stream import Disposition

from pipeline.errors import InputError
from pipeline.source import open_source

BYTES_A_PIXEL = 400
"""What one worker keeps of a picture, at least: half of the 830 bytes that the profile dashcam was seen to take (docs/security.md), because
other profiles and presets take less."""

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_bytes() -> int:
    """Memory of this machine, or of the container in which this runs where that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in CGROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def refuse_too_large(path: Path, memory_bytes: int = 0) -> None:
    """Read the sizes of a file's pictures from its header alone.

    memory_bytes: what a worker has, 0 = what this machine has
    Raises InputError, with the numbers, when a picture needs more, and as `open_source` does.
    """
    has = memory_bytes or machine_bytes()
    with open_source(path) as container:
        for stream in container.streams.video:
            context = stream.codec_context
            if context is None or stream.disposition & Disposition.attached_pic:
                continue  # probe tells of the first; the second is copied
            need = BYTES_A_PIXEL * context.width * context.height
            if need > has:
                raise InputError(
                    f"{path}: video stream {stream.index} is {context.width}x{context.height}; converting it takes at least "
                    f"{need / 1e9:.0f} GB of memory, and there are {has / 1e9:.0f} GB. If it is what it claims to be, scale it first, or name "
                    "what the workers have: workers.memory_bytes."
                )
