"""Signals that stop a search."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_LOG = logging.getLogger("spikefront")


class Interrupts:
    """Lets Ctrl-C and SIGTERM stop a search between two writes to its study, never within one.

    A second signal stops it at once, as it may be waiting for an unreachable or full storage.
    """

    def __init__(self) -> None:
        self._shielded = False
        self._pending = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle both signals; threads other than the main one receive none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._interrupt) for number in signals}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Defer an interrupt to the end of the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._shielded or self._pending:
            raise KeyboardInterrupt
        self._pending = True
        _LOG.warning("stopping once the study is written; a second Ctrl-C stops at once")
