"""Where a bench leaves its table: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_results(folder: Path, name: str, markdown: str, data: Any) -> None:  # noqa: ANN401 - anything that JSON knows
    """Write folder/name.md and folder/name.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(markdown)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
