"""Two computations side by side: one waits for a device while the other prepares numbers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

__all__ = ["both"]

_A = TypeVar("_A")
_B = TypeVar("_B")


def both(here: Callable[[], _A], beside: Callable[[], _B]) -> tuple[_A, _B]:
    """``(here(), beside())``, the latter in a thread of its own.

    Worth its tenth of a millisecond where at least one of the two leaves the interpreter lock.
    Returns, or raises what one of them raised (what `here` did, if both), when both have ended.
    """
    future: Future[_B] = Future()

    def run() -> None:
        try:
            future.set_result(beside())
        except BaseException as error:
            future.set_exception(error)

    thread = Thread(target=run, name="residue-overlap")
    thread.start()
    try:
        result = here()
    finally:
        thread.join()
    return result, future.result()
