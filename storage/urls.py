"""URLs of object stores, such as s3://bucket/drives/a.mp4. Pure text: nothing is asked of a store here."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pipeline.errors import InputError

SCHEMES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
"""Legal schemes -> the package that speaks to such a store."""
AZURE = ("az", "abfs", "abfss")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Url:
    """scheme: a key of SCHEMES; path: bucket and key, without slashes around them; folder: written with a slash at its end"""

    scheme: str
    path: str
    folder: bool = False

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}{'/' if self.folder else ''}"

    @property
    def bucket(self) -> str:
        """The first part: a bucket, or a container of Azure."""
        return self.path.partition("/")[0]

    @property
    def key(self) -> str:
        """All after the bucket; empty for a bucket."""
        return self.path.partition("/")[2]

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The name's ending with its dot, in lower case; empty for a folder."""
        return "" if self.folder else PurePosixPath(self.name).suffix.lower()

    @property
    def parent(self) -> Url:
        """The folder it lies in. Of a bucket the bucket itself."""
        return Url(self.scheme, self.path.rpartition("/")[0] or self.path, folder=True)

    def join(self, inside: PurePosixPath | str) -> Url:
        """What lies below this folder."""
        return Url(self.scheme, f"{self.path}/{inside}")

    def below(self, folder: Url) -> PurePosixPath:
        """Its place below a folder of the same store. Raises ValueError when it lies elsewhere."""
        if self.scheme != folder.scheme:
            raise ValueError(f"{self} is not below {folder}")
        return PurePosixPath(self.path).relative_to(folder.path)

    def is_below(self, folder: Url) -> bool:
        """Does it lie below that folder, or is it that?"""
        return self.scheme == folder.scheme and PurePosixPath(self.path).is_relative_to(folder.path)

    def as_folder(self) -> Url:
        """The same, meant as a folder."""
        return replace(self, folder=True)


def is_url(text: str) -> bool:
    """Is this word a URL, of whatever kind, rather than a path?"""
    return _SCHEME.match(text) is not None


def parse_url(text: str) -> Url:
    """A word that `is_url` -> its URL.

    Raises InputError: another kind of URL, secrets in it, no bucket, or a part that no file may have as its name.
    """
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    host = rest.partition("/")[0]
    user, at, _ = host.rpartition("@")
    if at and ":" not in user and scheme in AZURE:
        raise InputError(f"{text}: name the account in AZURE_STORAGE_ACCOUNT_NAME and write {scheme}://{user}/KEY.")
    if at:
        raise InputError(
            f"{scheme}://...@{rest[len(user) + 1 :]}: a URL must hold no user or secret; leave them to the environment "
            "(docs/storage.md names the variables)."
        )
    if scheme == "file":
        raise InputError(f"{text}: name a file of this machine by its path alone.")
    if scheme not in SCHEMES:
        raise InputError(
            f"{text}: there is no way to such a place; legal: a path, or {', '.join(SCHEMES)}://BUCKET/KEY."
        )
    folder = rest.endswith("/")
    path = rest[:-1] if folder else rest
    if not path or path.startswith("/"):
        raise InputError(f"{text}: names no bucket; write {scheme}://BUCKET/KEY.")
    if not is_plain(path):
        raise InputError(
            f"{_CONTROL.sub('?', text)}: has an empty part, a part . or .. or a control character, which no file can be named "
            "after; rename the object."
        )
    return Url(scheme, path, folder)


def is_plain(path: str) -> bool:
    """Can every part of a bucket and key be the name of a file?"""
    return not _CONTROL.search(path) and all(part not in ("", ".", "..") for part in path.split("/"))
