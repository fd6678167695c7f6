"""File work: what is done to a whole file, planning it and joining it, in a process that may die of a hostile file.

A file from an object store is fetched before it is planned, and one for an object store published after it was joined.
"""

from __future__ import annotations

from pipeline.convert import Joining, join
from pipeline.file_report import FileReport
from pipeline.planning import Asked, Planned
from pipeline.planning import plan_file as plan_here
from storage.edges import RemoteAsked, RemoteJoining
from storage.edges import join as join_remote
from storage.edges import plan as plan_remote

PLAN_FILE = "workers.file_work:plan_file"
JOIN_FILE = "workers.file_work:join_file"


def plan_file(asked: Asked | RemoteAsked) -> Planned | FileReport:
    """See pipeline.planning; the indices stay in the work folder."""
    found = plan_remote(asked, plan_here) if isinstance(asked, RemoteAsked) else plan_here(asked)
    return found if isinstance(found, FileReport) else found.without_indices()


def join_file(joining: Joining | RemoteJoining) -> FileReport:
    """See pipeline.convert; with the report where it is asked for."""
    from reporting.conversion import report_conversion

    if isinstance(joining, RemoteJoining):
        return join_remote(joining, report_conversion)
    return join(joining, report_conversion)
