"""Multipart: an upload to S3 in parts. The object appears, in place of an older one, when the last request says so, and not before."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.errors import ConversionError, InputError, SunvisorError
from storage.store import Store, seconds_for
from storage.urls import Url

PART_BYTES = 16 << 20
MOST_PARTS = 10_000
AT_A_TIME = 4
JOURNAL_NAME = "upload.json"


def part_bytes(size: int) -> int:
    """Bytes of each part but the last of an upload of `size` bytes."""
    return max(PART_BYTES, -(-size // MOST_PARTS))


def check_writable(store: Store, url: Url, journal: Path) -> None:
    """Raise InputError when nothing may be written to a URL. Begins an upload and ends it: nothing appears.

    journal: as of Multipart
    """
    upload = Multipart(store, url, journal)
    upload.begin()
    upload.abort()


def end_leftover(store: Store, journal: Path) -> None:
    """End the upload that a killed process has left behind, as its journal says; stores charge for unfinished ones."""
    try:
        facts = json.loads(journal.read_text())
        left = Multipart(store, Url(facts["scheme"], facts["path"]), journal, facts["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    left.abort()


class Multipart:
    """One upload. journal: file that remembers it, so that a killed one can be ended"""

    def __init__(self, store: Store, url: Url, journal: Path, number: str = "") -> None:
        self._store, self._url, self._journal = store, url, journal
        self._place = {"Bucket": url.bucket, "Key": url.key}
        self._number = number

    def send(self, file: Path, sent: Callable[[int], object]) -> None:
        """Upload a file. sent: told how many bytes more are there. When it fails, nothing has appeared."""
        size = file.stat().st_size
        step = part_bytes(size)
        self.begin()
        try:
            with ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="publish") as pool:
                starts = range(0, max(size, 1), step)
                futures = [
                    pool.submit(self._part, file, number, start, step, sent) for number, start in enumerate(starts, 1)
                ]
                try:
                    parts = [future.result() for future in futures]
                finally:
                    for future in futures:
                        future.cancel()
            self._complete(parts, size)
        except BaseException as error:
            if not isinstance(error, ConversionError):  # out of reach: the next run ends it
                with contextlib.suppress(SunvisorError):
                    self.abort()
            raise
        self._journal.unlink(missing_ok=True)

    def begin(self) -> None:
        try:
            self._number = self._call("create_multipart_upload")["UploadId"]
        except FileNotFoundError as error:
            raise InputError(f"{self._url}: there is no bucket '{self._url.bucket}'.") from error
        facts = {"scheme": self._url.scheme, "path": self._url.path, "id": self._number}
        try:
            self._journal.write_text(json.dumps(facts))
        except OSError as error:
            self.abort()
            raise InputError(f"{self._journal}: cannot be written ({error.strerror}).") from error

    def abort(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # it is over already
            self._call("abort_multipart_upload", UploadId=self._number)
        with contextlib.suppress(OSError):  # a disk that takes nothing any more; ending it twice does no harm
            self._journal.unlink()

    def _part(self, file: Path, number: int, start: int, step: int, sent: Callable[[int], object]) -> dict[str, Any]:
        with file.open("rb") as opened:
            opened.seek(start)
            data = opened.read(step)
        sum_of = hashlib.md5(data, usedforsecurity=False).digest()
        try:
            answer = self._call(
                "upload_part",
                UploadId=self._number,
                PartNumber=number,
                Body=data,
                ContentMD5=base64.b64encode(sum_of).decode(),
            )
        except FileNotFoundError as error:
            raise InputError(f"{self._url}: the store ended this upload itself; run the same command again.") from error
        sent(len(data))
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _complete(self, parts: list[dict[str, Any]], size: int) -> None:
        """Let the object appear. An answer that was lost on its way is found out about."""
        try:
            self._call("complete_multipart_upload", UploadId=self._number, MultipartUpload={"Parts": parts})
        except FileNotFoundError as error:
            found = self._store.info(self._url)
            if found is None or found.size != size:
                raise InputError(
                    f"{self._url}: the store ended this upload itself; run the same command again."
                ) from error

    def _call(self, method: str, **arguments: Any) -> Any:  # noqa: ANN401 - of botocore
        seconds = seconds_for(len(arguments.get("Body", b"")))
        named = self._place | arguments
        return self._store.patient(self._url, lambda: self._store.ask("call_s3", method, seconds=seconds, **named))
