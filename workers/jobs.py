"""Jobs: which files a command line means (files, folders, globs, URLs, lists of these), and where each result goes.

What is found is a video file, or a run of numbered pictures that is converted like one (pipeline/sequence.py).
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from pipeline.encoder_choice import CONTAINERS as CODEC_CONTAINERS
from pipeline.errors import InputError
from pipeline.file_report import FileReport
from pipeline.places import CONTAINERS
from pipeline.sequence import CITYSCAPES_NAME, CODECS, Run, group_runs, is_picture
from storage.cell import Remote
from storage.urls import Url, is_url, parse_url
from workers.found import VIDEO_SUFFIXES, Found, fixed_parts, is_glob, is_hidden
from workers.frame_trees import VIDEO_FOLDER, label_tree, picture_targets, refuse_targets
from workers.remote_found import Stores, remote_places


@dataclass(frozen=True)
class Job:
    """One file to convert and where the result goes.

    run: the pictures that are the source; `source` is then the first of them
    frames: where each picture of the result goes, in order; empty when none are wanted, or the source is a video
    remote: what of it lies in an object store; `source` and `output` are then where it is worked on
    """

    source: Path
    output: Path
    run: Run | None = None
    frames: tuple[Path, ...] = ()
    remote: Remote | None = None

    @property
    def place(self) -> str:
        """Where the output goes, for people."""
        return str(self.remote.output if self.remote and self.remote.output else self.output)

    @property
    def origin(self) -> str:
        """Where the source is, for people."""
        return str(self.remote.source if self.remote and self.remote.source else self.source)

    def told(self, report: FileReport) -> FileReport:
        """A report with the places that people know: URLs, not where these are worked on."""
        return report if self.remote is None else FileReport(**self.remote.named_all(report.to_dict()))

    @property
    def source_bytes(self) -> int:
        """Size of the source, 0 when it is no file."""
        if self.remote is not None and self.remote.source is not None:
            return self.remote.size
        if self.run is not None:
            return self.run.size_bytes
        return self.source.stat().st_size if self.source.is_file() else 0


def find_jobs(
    inputs: list[str],
    output: Path | Url,
    container: str = "auto",
    frames: str = "none",
    codec: str = "hevc",
    *,
    watching: bool = False,
    stores: Stores | None = None,
) -> tuple[list[Job], list[Path | Url]]:
    """Files, folders, globs and @lists -> jobs, and what is left alone of folders: files that are no video by their name, trees of labels.

    One file, or one run of pictures, goes to `output` itself unless that is a folder; everything else goes into the folder `output`, the
    tree mirrored. Pictures of a folder are runs where no video lies in it, and always when named as Cityscapes does: a camera's card may
    hold snapshots beside its videos.
    A list (@list.txt) has one file, folder or glob a line, relative to the list's folder; empty lines and those that start with # are no
    input. Its files are mirrored from the list's folder, or from the folder that those have in common that lie elsewhere; those of stores from
    what they have in common.
    container: of outputs in a folder; auto = the codec's own; codec: `output.codec`
    frames: "none", or a key of pipeline.frame_files.ENDINGS: then pictures go into the mirrored tree, and videos of runs into its folder `video`
    watching: `output` is a folder, and nothing may be there yet
    stores: where URLs are looked up (default: as the environment says)
    Raises InputError when an input does not exist, nothing is found, or a result would be written over another or over a source.
    """
    found: list[Found] = []
    pictures: dict[Path, list[Path]] = {}
    skipped: list[Path | Url] = []
    stores = stores or Stores()
    words = [place for word in inputs for place in _places(word)]
    single = False
    for word, below in words:
        if isinstance(word, Url):
            assert not isinstance(below, Path)
            files_there, single = stores.look_up(word, below, output, skipped)
            if not (files_there or watching):
                raise InputError(f"{word}: there is no such object, and no video file below it.")
            found += files_there
            continue
        files, root, single = _look_here(word, below, output, skipped, watching)
        found += [Found(file, file.relative_to(root), root) for file in files if not is_picture(file)]
        pictures.setdefault(root, []).extend(file for file in files if is_picture(file))
    runs = [(root, run) for root, files in pictures.items() for run in group_runs(files)]
    found += [Found(run.files[0], run.files[0].relative_to(root), root, run) for root, run in runs]
    if not (found or watching):
        raise InputError(
            f"{', '.join(inputs)}: no video file there; by name these count: {' '.join(sorted(VIDEO_SUFFIXES))}, "
            f"and pictures whose names end in a number: {' '.join(CODECS)}."
        )
    one_file = not watching and len(words) == 1 and single
    one_run = not watching and len(found) == 1 and found[0].run is not None
    by_name = output.suffix.lower()
    is_folder = output.folder if isinstance(output, Url) else output.is_dir()
    if (one_file or one_run) and not is_folder and by_name in CONTAINERS:
        return [_single(found[0], output, frames, stores.folder)], skipped
    if one_file and not is_folder and by_name:
        raise InputError(f"{output}: the output's name must end in one of {', '.join(CONTAINERS)}, or name a folder.")
    if isinstance(output, Path) and output.exists() and not is_folder:
        raise InputError(f"{output}: several inputs need a folder for --output, this is a file.")
    if isinstance(output, Url) and not is_folder and by_name in CONTAINERS:
        raise InputError(f"{output}: several inputs need a folder for --output; write {output}/ if that is one.")
    if watching and by_name in CONTAINERS and not is_folder:
        raise InputError(f"{output}: --watch needs a folder for --output.")
    suffix = f".{CODEC_CONTAINERS[codec][0] if container == 'auto' else container}"
    return _into_folder(found, output, suffix, frames, stores.folder), skipped


def _look_here(
    word: str, below: PurePath | None, output: Path | Url, skipped: list[Path | Url], watching: bool
) -> tuple[list[Path], Path, bool]:
    """Files that a word means on the disk, the folder below which their places are mirrored, and whether it named one file."""
    path = Path(word)
    if path.is_dir():
        return _look_through(path, output, skipped), path, False
    if path.exists():
        return [path], Path(below) if below else path.parent, path.is_file()
    matches = sorted(Path().glob(word)) if not path.is_absolute() else sorted(Path("/").glob(word.lstrip("/")))
    files = [match for match in matches if match.is_file()]
    if not (files or (watching and is_glob(word))):
        raise InputError(f"{word}: no such file or folder, and no file matches it as a glob.")
    return files, _fixed_part(word), False


def _single(found: Found, output: Path | Url, frames: str, folder: Path) -> Job:
    """The job of the only source, whose output is named."""
    if found.run is None or frames == "none":
        return _job(found, output, (), folder)
    if isinstance(output, Url):
        raise InputError(f"{output}: extras.frames of pictures are written to a disk only; name a folder there.")
    beside = output.with_name(f"{output.stem}_frames")
    pictures = picture_targets(found.run, found.run.files[0].parent, beside, frames)
    refuse_targets([found.run], pictures)
    return _job(found, output, pictures, folder)


def _job(found: Found, target: Path | Url, frames: tuple[Path, ...], folder: Path) -> Job:
    if isinstance(found.source, Path) and isinstance(target, Path):
        return Job(found.source, target, found.run, frames)
    remote = remote_places(found, target, folder)
    source = found.source if isinstance(found.source, Path) else remote.local_source
    return Job(source, target if isinstance(target, Path) else remote.local_output, found.run, frames, remote)


def _places(word: str) -> list[tuple[str | Url, PurePath | None]]:
    """A word of the command line -> (file, folder, glob or URL, the folder that a file is mirrored from or None for its own)."""
    if is_url(word):
        return [(parse_url(word), None)]
    if not word.startswith("@"):
        return [(word, None)]
    path = Path(word[1:])
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise InputError(f"{word}: this list cannot be read ({why}).") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    urls = [parse_url(line) for line in lines if is_url(line)]
    named = [path.parent / line for line in lines if not is_url(line)]
    if not lines:
        raise InputError(f"{word}: this list names no file; write one a line.")
    outside = [one.absolute().parent for one in named if not one.is_relative_to(path.parent) or ".." in one.parts]
    common = Path(os.path.commonpath([os.path.normpath(one) for one in outside])) if outside else None
    shared = PurePosixPath(os.path.commonpath([one.parent.path for one in urls])) if urls else None
    return [(url, shared) for url in urls] + [
        (str(one), path.parent)
        if one.is_relative_to(path.parent) and ".." not in one.parts
        else (os.path.normpath(one.absolute()), common)
        for one in named
    ]


def _look_through(folder: Path, output: Path | Url, skipped: list[Path | Url]) -> list[Path]:
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


def _is_ours(file: Path, root: Path, output: Path | Url) -> bool:
    """Work folders, hidden files and the output folder inside an input folder are no input."""
    if is_hidden(file.relative_to(root)):
        return True
    if isinstance(output, Url):
        return False
    return output.resolve() != root.resolve() and file.resolve().is_relative_to(output.resolve())


def _fixed_part(pattern: str) -> Path:
    """The folder before the first wildcard of a glob; what lies below it is mirrored."""
    return Path(*fixed_parts(Path(pattern).parts))


def _into_folder(found: list[Found], output: Path | Url, suffix: str, frames: str, folder: Path) -> list[Job]:
    """Mirror each file below its root into `output`. Where two sources would share a name, those that end otherwise than the outputs keep their endings (a.avi.mp4)."""
    bases = [PurePath(VIDEO_FOLDER) if frames != "none" and one.run else PurePath() for one in found]
    targets = [base / one.inside.with_suffix(suffix) for base, one in zip(bases, found, strict=True)]
    claims = Counter(targets)
    jobs = []
    for base, one, target in zip(bases, found, targets, strict=True):
        if claims[target] > 1 and one.inside.suffix.lower() != suffix:
            target = base / one.inside.with_name(one.inside.name + suffix)
        pictures: tuple[Path, ...] = ()
        if frames != "none" and one.run:
            if isinstance(output, Url):
                raise InputError(
                    f"{output}: extras.frames of pictures are written to a disk only; name a folder there."
                )
            pictures = picture_targets(one.run, one.root, output, frames)
        place = output.join(target.as_posix()) if isinstance(output, Url) else output / target
        jobs.append(_job(one, place, pictures, folder))
    claims = Counter(job.place for job in jobs)
    twice = sorted(place for place, count in claims.items() if count > 1)
    if twice:
        raise InputError(
            f"{twice[0]}: two inputs of the same name would be written here; convert them into different folders."
        )
    refuse_targets([job.run for job in jobs if job.run], [target for job in jobs for target in job.frames])
    return jobs
