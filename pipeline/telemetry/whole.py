"""Files that appear complete or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.encode import publish


@contextmanager
def whole_file(final: Path) -> Iterator[Path]:
    """A temporary name to write to. It becomes `final`, synced, when the block ends well; otherwise nothing is left.

    A block that removes the temporary file itself leaves `final` as it was.
    """
    partial = final.with_name(final.name + ".part")
    try:
        yield partial
        if partial.exists():
            publish(partial, final)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
