"""Places: names of outputs and of the folders that are worked in. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "mkv"}
"""Suffixes of outputs in lower case -> their container."""


def work_folder(output: Path) -> Path:
    """Where plan, ledger and span files live until the output is complete: OUTPUT.mp4 -> OUTPUT.mp4.work"""
    return output.with_name(output.name + ".work")
