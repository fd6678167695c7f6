"""Remote found: objects of stores that a command line means, and the jobs that begin or end in a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.errors import InputError
from pipeline.sequence import is_picture
from storage.cell import Remote, cell_of, storage_folder
from storage.store import RemoteFile, Store
from storage.urls import Url
from workers.found import VIDEO_SUFFIXES, Found, fixed_parts, is_glob, is_hidden


@dataclass
class Stores:
    """Where stores are listed, and where conversions from and to them are worked on.

    folder: for cells (storage.cell); retry_seconds, tell: see storage.store.Store
    """

    folder: Path = field(default_factory=lambda: storage_folder(None))
    retry_seconds: float = 0.0
    tell: Callable[[str], object] = lambda text: None
    _open: dict[str, Store] = field(default_factory=dict)

    def of(self, url: Url) -> Store:
        """The store of a URL."""
        if url.scheme not in self._open:
            self._open[url.scheme] = Store(url.scheme, self.retry_seconds, tell=self._tell)
        return self._open[url.scheme]

    def _tell(self, text: str) -> None:
        if text:
            self.tell(text)

    def look_up(
        self, url: Url, below: PurePosixPath | None, output: Path | Url, skipped: list[Path | Url]
    ) -> tuple[list[Found], bool]:
        """An object, a prefix or a glob -> videos to convert, and whether it named one object. What is left alone is added to `skipped`.

        below: the place, as bucket and key, that a single object is mirrored from; None: its own folder
        Raises InputError when nothing is there.
        """
        store = self.of(url)
        one = None if url.folder or not url.key else store.info(url)
        if one is not None:
            _refuse_pictures(one.url)
            return [Found(one, PurePosixPath(url.path).relative_to(below or url.parent.path))], True
        if is_glob(url.path):
            root = _fixed_part(url)
            files = [file for file in store.matching(url) if not is_picture(Path(file.url.name))]
        else:
            root = url.as_folder()
            listed = store.below(root)
            if not listed:
                store.check_bucket(url)
            files = _sorted_out(listed, root, output, skipped)
        return [Found(file, file.url.below(root)) for file in files], False


def remote_places(found: Found, target: Path | Url, folder: Path) -> Remote:
    """The cell of a conversion that begins or ends in a store. Raises InputError when it would write over its source."""
    file = found.source
    if isinstance(file, Path):
        assert isinstance(target, Url)
        return Remote(cell_of(folder, str(file.resolve()), str(target)), output=target)
    if file.url == target:
        raise InputError(f"{target}: the output is the source itself; name another object.")
    if isinstance(target, Path):
        return Remote(
            cell_of(folder, str(file.url), str(target.resolve())), source=file.url, size=file.size, pin=file.pin
        )
    return Remote(cell_of(folder, str(file.url), str(target)), file.url, target, file.size, file.pin)


def _sorted_out(listed: list[RemoteFile], root: Url, output: Path | Url, skipped: list[Path | Url]) -> list[RemoteFile]:
    """Videos of a prefix; the output's own prefix inside it, work folders and hidden objects are no input."""
    inner = output.as_folder() if isinstance(output, Url) and output.path != root.path else None
    files = [one for one in listed if not is_hidden(one.url.below(root)) and not (inner and one.url.is_below(inner))]
    kept = [one for one in files if one.url.suffix in VIDEO_SUFFIXES]
    if not kept and (picture := next((one for one in files if is_picture(Path(one.url.name))), None)) is not None:
        _refuse_pictures(picture.url)
    skipped += [one.url for one in files if one not in kept]
    return kept


def _refuse_pictures(url: Url) -> None:
    if is_picture(Path(url.name)):
        raise InputError(f"{url}: runs of pictures are converted from a disk only; copy the folder to one first.")


def _fixed_part(pattern: Url) -> Url:
    """The folder before the first wildcard of a glob."""
    fixed = fixed_parts(pattern.path.split("/"))
    if not fixed:
        raise InputError(f"{pattern}: a bucket's name can have no wildcard.")
    return Url(pattern.scheme, "/".join(fixed), folder=True)
