"""Choice: something that was decided at run time, what it was decided to be, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One decision for people to read. what: of what; taken: what was chosen; reason: why this and nothing else."""

    what: str
    taken: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.taken} ({self.reason})"


def first_line(error: BaseException) -> str:
    """What an error says, on one line, as a reason; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
