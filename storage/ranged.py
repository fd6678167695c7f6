"""RangedFile: an object as a file that can be read anywhere, of which only what is read is asked for."""

from __future__ import annotations

import io
from collections import OrderedDict

from storage.store import RemoteFile, Store

BLOCK_BYTES = 128 << 10
KEPT_BLOCKS = 64


class RangedFile(io.RawIOBase):
    """For readers that jump: blocks of BLOCK_BYTES, of which KEPT_BLOCKS are kept."""

    def __init__(self, store: Store, file: RemoteFile) -> None:
        super().__init__()
        self._store, self._file = store, file
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """As many bytes as were asked for, fewer at the end."""
        end = self._file.size if size is None or size < 0 else min(self._at + size, self._file.size)
        pieces = []
        while self._at < end:
            number, skip = divmod(self._at, BLOCK_BYTES)
            piece = self._block(number)[skip : skip + end - self._at]
            pieces.append(piece)
            self._at += len(piece)
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK_BYTES
            data = self._store.read(self._file.url, start, min(start + BLOCK_BYTES, self._file.size))
            self._blocks[number] = data
            if len(self._blocks) > KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]
