"""Jobs: which files a command line means, and where each result goes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.prepare import CONTAINERS

VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".mts",
        ".m2ts",
        ".mpg",
        ".mpeg",
        ".3gp",
        ".flv",
        ".wmv",
        ".mjpeg",
        ".mjpg",
        ".h264",
        ".264",
        ".avc",
        ".hevc",
        ".h265",
        ".265",
    ]
)


@dataclass(frozen=True)
class Job:
    """One file to convert and where the result goes."""

    source: Path
    output: Path


def find_jobs(inputs: list[str], output: Path, container: str = "auto") -> tuple[list[Job], list[Path]]:
    """Files, folders and globs -> jobs, and the files of folders that are no video by their name.

    One file goes to `output` itself unless that is a folder; everything else goes into the folder `output`, the tree mirrored.
    container: of outputs in a folder; auto = mp4
    Raises InputError when an input does not exist or nothing is found.
    """
    found: list[tuple[Path, Path]] = []
    skipped: list[Path] = []
    for word in inputs:
        path = Path(word)
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if not file.is_file() or _is_ours(file, path, output):
                    continue
                if file.suffix.lower() in VIDEO_SUFFIXES:
                    found.append((file, path))
                else:
                    skipped.append(file)
        elif path.exists():
            found.append((path, path.parent))
        else:
            matches = sorted(Path().glob(word)) if not path.is_absolute() else sorted(Path("/").glob(word.lstrip("/")))
            files = [match for match in matches if match.is_file()]
            if not files:
                raise InputError(f"{word}: no such file or folder, and no file matches it as a glob.")
            found += [(file, _fixed_part(word)) for file in files]
    if not found:
        raise InputError(
            f"{', '.join(inputs)}: no video file there; by name these count: {' '.join(sorted(VIDEO_SUFFIXES))}."
        )
    as_file = (
        len(inputs) == 1 and Path(inputs[0]).is_file() and not output.is_dir() and output.suffix.lower() in CONTAINERS
    )
    if as_file:
        return [Job(found[0][0], output)], skipped
    if len(inputs) == 1 and Path(inputs[0]).is_file() and not output.is_dir() and output.suffix:
        raise InputError(f"{output}: the output's name must end in one of {', '.join(CONTAINERS)}, or name a folder.")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: several inputs need a folder for --output, this is a file.")
    suffix = ".mp4" if container == "auto" else f".{container}"
    return _into_folder(found, output, suffix), skipped


def _is_ours(file: Path, root: Path, output: Path) -> bool:
    """Work folders, hidden files and the output folder inside an input folder are no input."""
    inside = file.relative_to(root)
    if any(part.endswith(".work") or part.startswith(".") for part in inside.parts):
        return True
    return output.resolve() != root.resolve() and file.resolve().is_relative_to(output.resolve())


def _fixed_part(pattern: str) -> Path:
    """The folder before the first wildcard of a glob; what lies below it is mirrored."""
    fixed = []
    for part in Path(pattern).parts[:-1]:
        if any(sign in part for sign in "*?["):
            break
        fixed.append(part)
    return Path(*fixed)


def _into_folder(found: list[tuple[Path, Path]], output: Path, suffix: str) -> list[Job]:
    """Mirror each file below its root into `output`. Where two sources would share a name, those that are no mp4 keep their endings (a.avi.mp4)."""
    targets = [output / file.relative_to(root).with_suffix(suffix) for file, root in found]
    claims = Counter(targets)
    jobs = []
    for (file, root), target in zip(found, targets, strict=True):
        if claims[target] > 1 and file.suffix.lower() != suffix:
            target = output / file.relative_to(root).with_name(file.name + suffix)
        jobs.append(Job(file, target))
    claims = Counter(job.output for job in jobs)
    twice = sorted(str(path) for path, count in claims.items() if count > 1)
    if twice:
        raise InputError(
            f"{twice[0]}: two inputs of the same name would be written here; convert them into different folders."
        )
    return jobs
