"""Store: an object store behind one scheme, asked patiently, and what it answers told in sentences."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any

import fsspec

from pipeline.errors import ConversionError, InputError, SunvisorError
from pipeline.heartbeat import beat
from storage.urls import SCHEMES, Url, is_plain

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
REASON_CHARACTERS = 200
REQUEST_SECONDS = 60.0
BEAT_SECONDS = 5.0
LISTING_SECONDS = 3600.0
SLOWEST_BYTES_A_SECOND = 100_000
"""A request that moves fewer has stalled."""
TRANSIENT_PACKAGES = frozenset(
    {"botocore", "aiobotocore", "aiohttp", "urllib3", "requests", "gcsfs", "google", "azure", "asyncio", "json"}
)
"""Errors of these packages that are no OSError come from the way to the store or from it, and may pass."""
PERMANENT_ERRORS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "ProfileNotFound"}
)
PERMANENT_ERRORS |= {
    "DefaultCredentialsError",
    "ClientAuthenticationError",
    "NoRegionError",
    "CredentialRetrievalError",
    "UnknownCredentialError",
    "TokenRetrievalError",
    "SSOError",
    "LoginError",
    "ConfigParseError",
    "ConfigNotFound",
    "InvalidConfigError",
}
_USER = re.compile(r"//[^/@\s]*@")


class ShortAnswer(OSError):
    """A store gave fewer or more bytes than were asked for."""


class Shrunk(ConversionError):
    """An object ends before the bytes that were asked for: another one has taken its place."""


def seconds_for(count: int) -> float:
    """How long a request that moves so many bytes may take."""
    return REQUEST_SECONDS + count / SLOWEST_BYTES_A_SECOND


@dataclass(frozen=True)
class RemoteFile:
    """An object. size: bytes; pin: what changes when it is written to (ETag, generation or time, with the size)"""

    url: Url
    size: int
    pin: str


@dataclass
class Store:
    """Everything that is asked of the store behind a scheme. What may pass is tried again, with growing pauses, for `retry_seconds` in all.

    tell: shown what is waited for, and "" when the wait is over; sleep, clock: seconds; filesystem: of fsspec (default: by the scheme)
    Every method raises InputError for what the user can mend (no such bucket, access denied, no credentials, a package that is
    missing) and ConversionError when the store stays out of reach.
    """

    scheme: str
    retry_seconds: float = 0.0
    tell: Callable[[str], object] = lambda text: None
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic
    filesystem: Any = None

    def __post_init__(self) -> None:
        if self.filesystem is None:
            self.filesystem = _filesystem(self.scheme)

    def info(self, url: Url) -> RemoteFile | None:
        """The object at a URL; None when there is none. A bucket that does not exist is an InputError."""
        try:
            found = self.patient(url, lambda: self.ask("info", url.path))
        except FileNotFoundError:
            self.check_bucket(url)
            return None
        return None if found["type"] == "directory" else _object(url, found)

    def check_bucket(self, url: Url) -> None:
        """Raise InputError when the bucket of a URL does not exist."""
        try:
            self.patient(url, lambda: self.ask("info", url.bucket))
        except FileNotFoundError as error:
            raise InputError(f"{url}: there is no bucket '{url.bucket}'.") from error

    def below(self, folder: Url, prefix: str = "") -> list[RemoteFile]:
        """All objects below a folder whose place there begins with `prefix`, sorted; keys that no file can be named after are left out."""
        listed = {"detail": True} | ({"prefix": prefix} if prefix else {})
        try:
            found = self.patient(folder, lambda: self.ask("find", folder.path, seconds=LISTING_SECONDS, **listed))
        except FileNotFoundError:
            self.check_bucket(folder)
            return []
        files = [
            _object(Url(self.scheme, name.strip("/")), facts)
            for name, facts in sorted(found.items())
            if _is_file(name, facts)
        ]
        start = f"{folder.path}/{prefix}"
        return [one for one in files if is_plain(one.url.path) and one.url.path.startswith(start)]

    def matching(self, pattern: Url) -> list[RemoteFile]:
        """All objects that a glob means, sorted."""
        try:
            found = self.patient(pattern, lambda: self.ask("glob", pattern.path, seconds=LISTING_SECONDS, detail=True))
        except FileNotFoundError:
            self.check_bucket(pattern)
            return []
        files = [(name.strip("/"), facts) for name, facts in sorted(found.items()) if _is_file(name, facts)]
        return [_object(Url(self.scheme, name), facts) for name, facts in files if is_plain(name)]

    def read(self, url: Url, start: int, end: int) -> bytes:
        """The bytes start <= at < end of an object, exactly as many. Raises InputError when it is gone, Shrunk when it ends before."""

        def ask() -> bytes:
            try:
                data = self.ask("cat_file", url.path, seconds=seconds_for(end - start), start=start, end=end)
                if len(data) != end - start:
                    raise ShortAnswer(f"{len(data)} bytes came, {end - start} were asked for")
            except (FileNotFoundError, PermissionError, ConnectionError, TimeoutError):
                raise
            except Exception as error:  # stores say in many ways that they have no such range
                size = int(self.ask("info", url.path)["size"])
                if size < end:
                    raise Shrunk(f"{url}: has {size} bytes now, and bytes up to {end} were asked for.") from error
                raise
            return data

        try:
            return self.patient(url, ask)
        except FileNotFoundError as error:
            raise InputError(f"{url}: the object is gone.") from error

    def ask(self, method: str, *words: Any, seconds: float | None = None, **named: Any) -> Any:  # noqa: ANN401 - of fsspec
        """One call of the filesystem's, broken off after so many seconds (default: REQUEST_SECONDS).

        The clients' own time-outs do not cover a request whose body the other side never takes.
        """
        if not getattr(self.filesystem, "async_impl", False):
            return getattr(self.filesystem, method)(*words, **named)

        async def call() -> Any:  # noqa: ANN401
            return await asyncio.wait_for(
                getattr(self.filesystem, f"_{method}")(*words, **named), seconds or REQUEST_SECONDS
            )

        future = asyncio.run_coroutine_threadsafe(call(), self.filesystem.loop)
        end = time.monotonic() + (seconds or REQUEST_SECONDS)
        while not wait([future], BEAT_SECONDS).done and time.monotonic() < end:
            beat()  # a whole file may be on its way
        return future.result()

    def patient(self, url: Url, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the call gives
        """What the call returns. FileNotFoundError is the caller's to explain."""
        began: float | None = None
        pause = FIRST_PAUSE_SECONDS
        while True:
            beat()  # waiting for a store is no standing still
            try:
                result = call()
            except (FileNotFoundError, SunvisorError):
                raise
            except Exception as error:
                why = _transient(url, error)
                if why is None:
                    raise
                now = self.clock()
                began = now if began is None else began
                if now - began >= self.retry_seconds:
                    raise ConversionError(
                        f"{url}: the store cannot be reached, or does not work, for {self.retry_seconds:.0f} s now ({why}); run the same "
                        "command again once it does: what is done is kept."
                    ) from error
            else:
                if began is not None:
                    self.tell("")
                return result
            rest = min(pause * random.uniform(0.5, 1.0), began + self.retry_seconds - now)
            self.tell(f"waiting for {url} ({why}), next try in {rest:.0f} s")
            self.sleep(rest)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _transient(url: Url, error: Exception) -> str | None:
    """Why it failed, when it may pass; None when the error is none of a store's. Raises InputError when it will not pass."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    unsaid = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    words = (str(error).strip() or unsaid).splitlines()[0]
    why = _USER.sub("//***@", words)[:REASON_CHARACTERS].rstrip(".")
    if isinstance(error, PermissionError):
        raise InputError(
            f"{url}: the store denies access ({why}); check the credentials in the environment and what they may do."
        ) from error
    if kinds & PERMANENT_ERRORS or (isinstance(error, ValueError) and not packages & TRANSIENT_PACKAGES):
        raise InputError(f"{url}: {why}; see docs/storage.md for what the environment must say.") from error
    return why if isinstance(error, OSError) or packages & TRANSIENT_PACKAGES else None


def _filesystem(scheme: str) -> Any:  # noqa: ANN401 - of fsspec
    """fsspec's filesystem, which reads credentials from the environment. Raises InputError when its package is missing."""
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        told = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {"retries": {"max_attempts": 1, "mode": "standard"}} | told
    try:
        filesystem = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        package = SCHEMES[scheme]
        raise InputError(
            f"{scheme}://: needs the Python package {package}; install it with: .venv/bin/pip install {package}"
        ) from error
    except ValueError as error:
        raise InputError(f"{scheme}://: the environment does not say how to reach this store ({error}).") from error
    if scheme == "s3":
        filesystem.retries = 1  # whoever asks waits, and says so
    return filesystem


def _is_file(name: str, facts: dict[str, Any]) -> bool:
    """Objects whose names end in a slash stand for folders."""
    return facts["type"] == "file" and not name.endswith("/") and not facts["name"].endswith("/")


def _object(url: Url, facts: dict[str, Any]) -> RemoteFile:
    marks = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "updated", "created")
    mark = next((str(facts[name]) for name in marks if facts.get(name)), "")
    return RemoteFile(url, int(facts["size"]), f"{facts['size']} {mark.strip(chr(34))}")
