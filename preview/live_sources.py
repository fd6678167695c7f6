"""Live sources that tabs share: opened for the first tab that shows one, closed after the last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from preview.live import LiveSource
from preview.stills import Abandoned

ASK_SECONDS = 0.1


class LiveSources:
    """open_it: opens the source of a number; may take many seconds, and raises InputError. For any thread."""

    def __init__(self, open_it: Callable[[int], LiveSource]) -> None:
        self._open_it = open_it
        self._lock = threading.Lock()
        self._shared: dict[int, _Shared] = {}

    def take(self, number: int, wanted: Callable[[], bool]) -> LiveSource:
        """A live source; `give_back` it. One that is stale is closed and opened anew.

        wanted: asked while it is being opened; once false, Abandoned is raised. Raises InputError when it does not open.
        """
        with self._lock:
            shared = self._shared.get(number)
            if shared is not None and shared.is_stale:
                shared.close()
                shared = None
            if shared is None:
                shared = self._shared[number] = _Shared()
                threading.Thread(target=self._open, args=(number, shared), name="open live", daemon=True).start()
            shared.users += 1
        while not wait([shared.opened], ASK_SECONDS).done:
            if not wanted():
                self._leave(number, shared)
                raise Abandoned
        return shared.opened.result()

    def give_back(self, live: LiveSource) -> None:
        """A tab shows it no more; the last one closes it."""
        with self._lock:
            found = [(number, one) for number, one in self._shared.items() if one.live is live]
        for number, shared in found:
            self._leave(number, shared)

    def close(self) -> None:
        """Close all."""
        with self._lock:
            shared, self._shared = list(self._shared.values()), {}
            for one in shared:
                one.users = 0
                one.close()

    def _open(self, number: int, shared: _Shared) -> None:
        """The thread of one opening. Nobody may want it any more when it is done."""
        try:
            live = self._open_it(number)
        except BaseException as error:  # noqa: BLE001 - raised by all who wait for it
            with self._lock:
                self._drop(number, shared)
            shared.opened.set_exception(error)
            return
        with self._lock:
            shared.opened.set_result(live)
            if not shared.users:
                self._drop(number, shared)
                shared.close()

    def _leave(self, number: int, shared: _Shared) -> None:
        with self._lock:
            shared.users -= 1
            if shared.users <= 0 and shared.opened.done():
                self._drop(number, shared)
                shared.close()

    def _drop(self, number: int, shared: _Shared) -> None:
        if self._shared.get(number) is shared:
            del self._shared[number]


class _Shared:
    """One live source, opened or being opened, and how many tabs show it."""

    def __init__(self) -> None:
        self.opened: Future[LiveSource] = Future()
        self.users = 0

    @property
    def live(self) -> LiveSource | None:
        return self.opened.result() if self.opened.done() and self.opened.exception() is None else None

    @property
    def is_stale(self) -> bool:
        return self.live is not None and self.live.stale

    def close(self) -> None:
        """One that is still being opened is closed by its thread."""
        if self.live is not None:
            self.live.close()
