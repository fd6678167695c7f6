"""Jobs: which files a command line means (files, folders, globs, lists of these), and where each result goes.

What is found is a video file, or a run of numbered pictures that is converted like one (pipeline/sequence.py).
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.encoder_choice import CONTAINERS as CODEC_CONTAINERS
from pipeline.errors import InputError
from pipeline.places import CONTAINERS
from pipeline.sequence import CITYSCAPES_NAME, CODECS, Run, group_runs, is_picture
from workers.frame_trees import VIDEO_FOLDER, label_tree, picture_targets, refuse_targets

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
    """One file to convert and where the result goes.

    run: the pictures that are the source; `source` is then the first of them
    frames: where each picture of the result goes, in order; empty when none are wanted, or the source is a video
    """

    source: Path
    output: Path
    run: Run | None = None
    frames: tuple[Path, ...] = ()

    @property
    def source_bytes(self) -> int:
        """Size of the source, 0 when it is no file."""
        if self.run is not None:
            return self.run.size_bytes
        return self.source.stat().st_size if self.source.is_file() else 0


@dataclass(frozen=True)
class _Found:
    """A source, the folder below which its place is mirrored, and the run that it stands for."""

    source: Path
    root: Path
    run: Run | None = None

    @property
    def inside(self) -> Path:
        return self.source.relative_to(self.root)


def find_jobs(
    inputs: list[str],
    output: Path,
    container: str = "auto",
    frames: str = "none",
    codec: str = "hevc",
    *,
    watching: bool = False,
) -> tuple[list[Job], list[Path]]:
    """Files, folders, globs and @lists -> jobs, and what is left alone of folders: files that are no video by their name, trees of labels.

    One file, or one run of pictures, goes to `output` itself unless that is a folder; everything else goes into the folder `output`, the
    tree mirrored. Pictures of a folder are runs where no video lies in it, and always when named as Cityscapes does: a camera's card may
    hold snapshots beside its videos.
    A list (@list.txt) has one file, folder or glob a line, relative to the list's folder; empty lines and those that start with # are no
    input. Its files are mirrored from the list's folder, or from the folder that those have in common that lie elsewhere.
    container: of outputs in a folder; auto = the codec's own; codec: `output.codec`
    frames: "none", or a key of pipeline.frame_files.ENDINGS: then pictures go into the mirrored tree, and videos of runs into its folder `video`
    watching: `output` is a folder, and nothing may be there yet
    Raises InputError when an input does not exist, nothing is found, or a result would be written over another or over a source.
    """
    found: list[_Found] = []
    pictures: dict[Path, list[Path]] = {}
    skipped: list[Path] = []
    words = [place for word in inputs for place in _places(word)]
    for word, below in words:
        path = Path(word)
        if path.is_dir():
            files, root = _look_through(path, output, skipped), path
        elif path.exists():
            files, root = [path], below or path.parent
        else:
            matches = sorted(Path().glob(word)) if not path.is_absolute() else sorted(Path("/").glob(word.lstrip("/")))
            files, root = [match for match in matches if match.is_file()], _fixed_part(word)
            if not (files or (watching and _is_glob(word))):
                raise InputError(f"{word}: no such file or folder, and no file matches it as a glob.")
        found += [_Found(file, root) for file in files if not is_picture(file)]
        pictures.setdefault(root, []).extend(file for file in files if is_picture(file))
    found += [_Found(run.files[0], root, run) for root, files in pictures.items() for run in group_runs(files)]
    if not (found or watching):
        raise InputError(
            f"{', '.join(inputs)}: no video file there; by name these count: {' '.join(sorted(VIDEO_SUFFIXES))}, "
            f"and pictures whose names end in a number: {' '.join(CODECS)}."
        )
    one_file = not watching and len(words) == 1 and Path(words[0][0]).is_file()
    one_run = not watching and len(found) == 1 and found[0].run is not None
    if (one_file or one_run) and not output.is_dir() and output.suffix.lower() in CONTAINERS:
        jobs = [Job(found[0].source, output, found[0].run)]
        if one_run and frames != "none":
            folder = output.with_name(f"{output.stem}_frames")
            pictures = picture_targets(found[0].run, found[0].source.parent, folder, frames)
            refuse_targets([found[0].run], pictures)
            jobs = [replace(jobs[0], frames=pictures)]
        return jobs, skipped
    if one_file and not output.is_dir() and output.suffix:
        raise InputError(f"{output}: the output's name must end in one of {', '.join(CONTAINERS)}, or name a folder.")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: several inputs need a folder for --output, this is a file.")
    if watching and output.suffix.lower() in CONTAINERS and not output.is_dir():
        raise InputError(f"{output}: --watch needs a folder for --output.")
    suffix = f".{CODEC_CONTAINERS[codec][0] if container == 'auto' else container}"
    return _into_folder(found, output, suffix, frames), skipped


def _places(word: str) -> list[tuple[str, Path | None]]:
    """A word of the command line -> (file, folder or glob, the folder that a file is mirrored from or None for its own)."""
    if not word.startswith("@"):
        return [(word, None)]
    path = Path(word[1:])
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise InputError(f"{word}: this list cannot be read ({why}).") from error
    named = [path.parent / line for line in lines if line and not line.startswith("#")]
    if not named:
        raise InputError(f"{word}: this list names no file; write one a line.")
    outside = [one.absolute().parent for one in named if not one.is_relative_to(path.parent) or ".." in one.parts]
    common = Path(os.path.commonpath([os.path.normpath(one) for one in outside])) if outside else None
    return [
        (str(one), path.parent)
        if one.is_relative_to(path.parent) and ".." not in one.parts
        else (os.path.normpath(one.absolute()), common)
        for one in named
    ]


def _look_through(folder: Path, output: Path, skipped: list[Path]) -> list[Path]:
    """Videos and pictures of a folder to convert, sorted; what is left alone is added to `skipped`."""
    kept: list[Path] = []
    left: dict[Path, None] = {}
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or _is_ours(file, folder, output):
            continue
        tree = label_tree(file, folder)
        if tree is None and (file.suffix.lower() in VIDEO_SUFFIXES or is_picture(file)):
            kept.append(file)
        else:
            left[tree or file] = None
    if any(not is_picture(file) for file in kept):
        snapshots = [file for file in kept if is_picture(file) and not CITYSCAPES_NAME.fullmatch(file.stem)]
        left |= dict.fromkeys(snapshots)
        kept = [file for file in kept if file not in left]
    skipped += left
    return kept


def _is_ours(file: Path, root: Path, output: Path) -> bool:
    """Work folders, hidden files and the output folder inside an input folder are no input."""
    inside = file.relative_to(root)
    if any(part.endswith(".work") or part.startswith(".") for part in inside.parts):
        return True
    return output.resolve() != root.resolve() and file.resolve().is_relative_to(output.resolve())


def _is_glob(word: str) -> bool:
    return any(sign in word for sign in "*?[")


def _fixed_part(pattern: str) -> Path:
    """The folder before the first wildcard of a glob; what lies below it is mirrored."""
    fixed = []
    for part in Path(pattern).parts[:-1]:
        if _is_glob(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _into_folder(found: list[_Found], output: Path, suffix: str, frames: str) -> list[Job]:
    """Mirror each file below its root into `output`. Where two sources would share a name, those that end otherwise than the outputs keep their endings (a.avi.mp4)."""
    bases = [output / VIDEO_FOLDER if frames != "none" and one.run else output for one in found]
    targets = [base / one.inside.with_suffix(suffix) for base, one in zip(bases, found, strict=True)]
    claims = Counter(targets)
    jobs = []
    for base, one, target in zip(bases, found, targets, strict=True):
        if claims[target] > 1 and one.source.suffix.lower() != suffix:
            target = base / one.inside.with_name(one.source.name + suffix)
        pictures = picture_targets(one.run, one.root, output, frames) if frames != "none" and one.run else ()
        jobs.append(Job(one.source, target, one.run, pictures))
    claims = Counter(job.output for job in jobs)
    twice = sorted(str(path) for path, count in claims.items() if count > 1)
    if twice:
        raise InputError(
            f"{twice[0]}: two inputs of the same name would be written here; convert them into different folders."
        )
    refuse_targets([job.run for job in jobs if job.run], [target for job in jobs for target in job.frames])
    return jobs
