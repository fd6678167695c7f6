"""Parts of storage by themselves: URLs, ranges, patience, fetching, texts for people. No server."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import string
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from botocore.exceptions import UnauthorizedSSOTokenError
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConversionError, InputError
from storage import fetch as fetching
from storage.cell import Remote, cell_of, storage_folder
from storage.fetch import blocks, fetch
from storage.multipart import MOST_PARTS, PART_BYTES, part_bytes
from storage.ranged import BLOCK_BYTES, RangedFile
from storage.store import RemoteFile, Store
from storage.urls import SCHEMES, Url, is_url, parse_url

PARTS = st.text(alphabet=string.ascii_letters + string.digits + " _-.#?%+=~ü日", min_size=1, max_size=12).filter(
    lambda part: part not in (".", "..")
)
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
SCHEME = st.sampled_from(sorted(SCHEMES))

# --- URLs ---------------------------------------------------------------------------------------------------------------


@given(SCHEME, PATHS, st.booleans())
def test_a_url_is_read_as_it_was_written(scheme: str, path: str, folder: bool) -> None:
    text = f"{scheme}://{path}{'/' if folder else ''}"
    url = parse_url(text)
    assert is_url(text) and str(url) == text
    assert (url.scheme, url.folder) == (scheme, folder)
    assert "/".join(filter(None, [url.bucket, url.key])) == path


@given(SCHEME, PATHS, PATHS)
def test_what_is_joined_to_a_folder_lies_there(scheme: str, path: str, inside: str) -> None:
    folder = Url(scheme, path, folder=True)
    joined = folder.join(inside)
    assert joined.below(folder) == PurePosixPath(inside) and joined.is_below(folder)
    assert parse_url(str(joined)) == joined
    assert joined.name == inside.split("/")[-1] and str(joined.parent) + joined.name == str(joined)
    assert not Url(scheme, path + "x").is_below(folder), "a name that only begins alike lies elsewhere"


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_told_why_not(text: str) -> None:
    try:
        url = parse_url(f"s3://{text}")
    except InputError as error:
        assert str(error).endswith(".")
    else:
        assert all(part not in ("", ".", "..") for part in url.path.split("/")) and "@" not in url.bucket


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s3://AKIA:sEcReT@bucket/a.mp4", "no user or secret"),
        ("s3://AKIA@bucket/a.mp4", "no user or secret"),
        ("az://me:sEcReT@account.dfs.core.windows.net/a.mp4", "no user or secret"),
        ("abfs://box@account.dfs.core.windows.net/a.mp4", "AZURE_STORAGE_ACCOUNT_NAME and write abfs://box/KEY"),
        ("ftp://host/a.mp4", "legal: a path, or s3"),
        ("file:///a.mp4", "by its path alone"),
        ("s3://", "no bucket"),
        ("s3:///a.mp4", "no bucket"),
        ("s3://bucket/../a.mp4", "part . or .."),
        ("s3://bucket//a.mp4", "empty part"),
        ("s3://bucket/a\n.mp4", "control character"),
    ],
)
def test_urls_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_url(text)
    assert "sEcReT" not in str(caught.value) and "\n" not in str(caught.value)


def test_paths_are_no_urls() -> None:
    assert not any(map(is_url, ["a.mp4", "/s3/a.mp4", "c:/a.mp4", "@list.txt", "a=b", "./s3:/x"]))


# --- ranges -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 3_000))
def test_every_byte_is_in_one_range(size: int, step: int) -> None:
    assert [at for start, end in blocks(size, step) for at in range(start, end)] == list(range(size))


@given(st.integers(0, 5 << 40))
def test_every_size_goes_in_parts_that_a_store_takes(size: int) -> None:
    step = part_bytes(size)
    assert step >= PART_BYTES > 5 << 20 and -(-size // step) <= MOST_PARTS and step <= 5 << 30


class Shelf:
    """A filesystem of fsspec's kind with one object. trouble: called before each read"""

    def __init__(self, data: bytes, trouble: Callable[[int, int], object] = lambda start, end: None) -> None:
        self.data, self.trouble, self.pin = data, trouble, "1"
        self.asked: list[tuple[int, int]] = []

    def info(self, path: str) -> dict[str, Any]:
        return {"type": "file", "name": path, "size": len(self.data), "ETag": f'"{self.pin}"'}

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.asked.append((start, end))
        self.trouble(start, end)
        return self.data[start:end]


URL = Url("s3", "b/a.mp4")


def store_of(shelf: Any, patience: float = 0.0) -> Store:  # noqa: ANN401
    """A store whose clock goes by its pauses alone."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return Store("s3", patience, sleep=sleep, clock=lambda: now[0], filesystem=shelf)


@given(st.lists(st.tuples(st.integers(0, 3 * BLOCK_BYTES), st.integers(-1, 2 * BLOCK_BYTES)), max_size=8))
def test_a_ranged_file_reads_as_a_file_does(reads: list[tuple[int, int]]) -> None:
    data = random.Random(1).randbytes(2 * BLOCK_BYTES + 777)
    shelf = Shelf(data)
    ours, judge = RangedFile(store_of(shelf), RemoteFile(URL, len(data), "")), io.BytesIO(data)
    for at, count in reads:
        assert ours.seek(at) == judge.seek(at)
        assert ours.read(count) == judge.read(count) and ours.tell() == judge.tell()
    assert len(shelf.asked) <= 3


# --- patience -----------------------------------------------------------------------------------------------------------


def test_what_may_pass_is_waited_for_and_said() -> None:
    told: list[str] = []
    left = [5]

    def trouble(start: int, end: int) -> None:
        if left[0]:
            left[0] -= 1
            raise ConnectionError("refused by http://user:hush@10.0.0.1/\nand more")

    store = store_of(Shelf(b"0123456789", trouble), 600)
    store.tell = told.append
    assert store.read(URL, 2, 6) == b"2345"
    assert len(told) == 6 and told[-1] == ""
    assert told[0].startswith("waiting for s3://b/a.mp4 (refused by http://***@10.0.0.1/), next try in ")
    assert "hush" not in "".join(told)


def test_it_is_waited_for_so_long_and_no_longer() -> None:
    def trouble(start: int, end: int) -> None:
        raise TimeoutError

    store = store_of(Shelf(b"01", trouble), 300)
    with pytest.raises(ConversionError, match="run the same command again once it does"):
        store.read(URL, 0, 2)
    assert store.clock() == pytest.approx(300)


@pytest.mark.parametrize(("change", "why"), [(-1, "9 bytes came, 10"), (1, "11 bytes came, 10")])
def test_an_answer_of_the_wrong_length_is_no_answer(change: int, why: str) -> None:
    shelf = Shelf(b"0" * 20)
    answers = ["wrong", "right"]
    shelf.cat_file = lambda path, start, end: b"0" * (end - start + (change if answers.pop(0) == "wrong" else 0))  # type: ignore[method-assign]
    told: list[str] = []
    store = store_of(shelf, 10)
    store.tell = told.append
    assert store.read(URL, 0, 10) == b"0" * 10
    assert why in told[0]


def test_what_will_not_pass_is_not_waited_for() -> None:
    for error, kind in [
        (PermissionError("Access Denied"), InputError),
        (ZeroDivisionError("a bug"), ZeroDivisionError),
        (ValueError("Invalid endpoint: localhost:9000"), InputError),
        (UnauthorizedSSOTokenError(), InputError),
    ]:

        def trouble(start: int, end: int, error: Exception = error) -> None:
            raise error

        store = store_of(Shelf(b"01", trouble), 300)
        with pytest.raises(kind):
            store.read(URL, 0, 2)
        assert store.clock() == 0


# --- fetching -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(fetching, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(fetching, "blocks", lambda size: blocks(size, 1000))
    return 1000


def test_a_fetch_that_was_killed_goes_on(small: int, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(9_500)
    limit = [4]

    def killed(start: int, end: int) -> None:
        limit[0] -= 1
        if limit[0] < 0:
            raise KeyboardInterrupt

    shelf = Shelf(data, killed)
    wanted, target = RemoteFile(URL, len(data), "9500 1"), tmp_path / "a.mp4"
    with pytest.raises(KeyboardInterrupt):
        fetch(store_of(shelf), wanted, target)
    assert not target.exists()
    journal = target.with_name(".a.mp4.fetched")
    noted = journal.read_text().splitlines()[1:]
    assert len(noted) == 4
    journal.write_text(journal.read_text() + "7 abc")  # cut short by the kill
    with target.with_name(".a.mp4.part").open("r+b") as file:  # and a range that the disk did not keep
        file.seek(int(noted[0].split()[0]) * small)
        file.write(b"lost")
    again = Shelf(data)
    fetch(store_of(again), wanted, target)
    assert target.read_bytes() == data
    assert len(again.asked) == 10 - (len(noted) - 1)
    fetch(store_of(again), wanted, target)
    assert len(again.asked) == 10 - (len(noted) - 1), "what is there is not fetched again"


def test_an_object_that_is_written_to_meanwhile_is_begun_anew(small: int, tmp_path: Path) -> None:
    old, new = b"a" * 4_000, b"b" * 4_321
    shelf = Shelf(old)

    def changed(start: int, end: int) -> None:
        if start == 2_000 and shelf.pin == "1":
            shelf.data, shelf.pin = new, "2"

    shelf.trouble = changed
    fetched = fetch(store_of(shelf, 1), RemoteFile(URL, 4_000, "4000 1"), tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == new and fetched.pin == "4321 2"
    assert [path.name for path in tmp_path.glob(".a.mp4.*")] == [".a.mp4.fetched"]


@pytest.mark.parametrize("refused", [False, True])
def test_an_object_that_became_shorter_meanwhile_is_begun_anew(small: int, tmp_path: Path, refused: bool) -> None:
    """Its range is answered with less, or refused as S3 does."""
    new = b"b" * 2_500
    shelf = Shelf(b"a" * 4_000)

    def changed(start: int, end: int) -> None:
        if start == 1_000 and shelf.pin == "1":
            shelf.data, shelf.pin = new, "2"
        if refused and start >= len(shelf.data):
            raise OSError(errno.EINVAL, "InvalidRange")

    shelf.trouble = changed
    store = store_of(shelf, 600)
    assert fetch(store, RemoteFile(URL, 4_000, "4000 1"), tmp_path / "a.mp4").pin == "2500 2"
    assert (tmp_path / "a.mp4").read_bytes() == new and store.clock() == 0


def test_a_disk_that_takes_half_a_range_gets_the_other_half(
    small: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: write(handle, data[: max(1, len(data) // 2)], at))
    data = random.Random(3).randbytes(2_500)
    fetch(store_of(Shelf(data)), RemoteFile(URL, 2_500, "2500 1"), tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == data


def test_an_object_that_never_stays_as_it_is_is_refused(small: int, tmp_path: Path) -> None:
    shelf = Shelf(b"a" * 3_000)
    shelf.trouble = lambda start, end: setattr(shelf, "pin", str(int(shelf.pin) + 1))
    with pytest.raises(ConversionError, match="was written to each of 3 times while it was fetched"):
        fetch(store_of(shelf), RemoteFile(URL, 3_000, "3000 1"), tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    shelf = Shelf(b"")
    with pytest.raises(InputError, match="no space left to fetch"):
        fetch(store_of(shelf), RemoteFile(URL, 1 << 60, "x"), tmp_path / "a.mp4")
    assert shelf.asked == []


# --- cells --------------------------------------------------------------------------------------------------------------


def test_people_are_told_urls(tmp_path: Path) -> None:
    remote = Remote(tmp_path / "cell", Url("s3", "in/x/a b.mp4"), Url("s3", "out/y/a.mp4"))
    out = remote.cell / "out"
    text = f"{remote.local_source}: from {remote.cell}/in/a b.gpx to {out}/a.mp4 and {out}/a.gpx, log in {out}/a.mp4.work/f.log"
    assert remote.named(text) == (
        f"s3://in/x/a b.mp4: from s3://in/x/a b.gpx to s3://out/y/a.mp4 and s3://out/y/a.gpx, log in {out}/a.mp4.work/f.log"
    )
    assert remote.named_all({"a": [str(out / "a.mp4"), 3]}) == {"a": ["s3://out/y/a.mp4", 3]}


def test_a_cell_that_cannot_be_is_told_and_tidied(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remote = Remote(cell_of(tmp_path / "file", "s3://a/b", "/c"), Url("s3", "a/b"))
    with pytest.raises(InputError, match="with workers"):
        remote.make()
    remote.tidy()
    made = Remote(cell_of(tmp_path / "storage", "s3://a/b", "/c"), Url("s3", "a/b"))
    made.make()
    assert made.cell.parent.stat().st_mode & 0o777 == 0o700
    made.tidy()
    assert not made.cell.exists()


def test_each_source_and_output_have_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("s3://a/b", "s3://c/d"), ("s3://a/b", "s3://c/e"), ("s3://a/c", "s3://c/d")]
    assert len({cell_of(tmp_path, *pair) for pair in pairs}) == 3
    assert cell_of(tmp_path, *pairs[0]) == cell_of(tmp_path, *pairs[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert storage_folder(None) == tmp_path / "sunvisor" / "storage"
    assert storage_folder(str(tmp_path / "x")) == tmp_path / "x"


def test_a_journal_is_plain_json(small: int, tmp_path: Path) -> None:
    fetch(store_of(Shelf(b"a" * 1_500)), RemoteFile(URL, 1_500, "1500 1"), tmp_path / "a.mp4")
    head = json.loads((tmp_path / ".a.mp4.fetched").read_text().splitlines()[0])
    assert head == {"pin": "1500 1", "size": 1_500, "block": 1_000}
