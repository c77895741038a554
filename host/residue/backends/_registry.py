"""Backends by name."""

from __future__ import annotations

import importlib.util
import threading

from residue.backends._protocol import Backend
from residue.errors import BackendError

__all__ = ["available_backends", "get_backend"]

_lock = threading.RLock()
_opened: dict[str, Backend] = {}


def available_backends() -> list[str]:
    """Names that `get_backend` can open here: ``card`` only where a board is in sight."""
    from residue.card._pynq import board_in_sight

    found = importlib.util.find_spec("pynq") is not None and board_in_sight()
    return ["cpu", *(["card"] if found else []), "auto"]


def get_backend(name: str = "auto") -> Backend:
    """The backend of that name, opened at the first call and shared by later ones.

    Args:
        name: ``cpu``; ``card``, the first board that `pynq` finds; ``card:ADDRESS``, a board that
            serves PYNQ.remote there; ``auto``, the first healthy card, else the CPU.
            ``auto:ADDRESS`` names the card.

    Raises:
        BackendError: no backend has that name, or what it needs is not installed.
        DeviceError: no card answers.
    """
    with _lock:
        backend = _opened.get(name)
        if backend is None or not backend.describe().get("healthy", True):
            backend = _opened[name] = _open(name)
        return backend


def _open(name: str) -> Backend:
    kind, _, address = name.partition(":")
    if kind == "card":
        from residue.backends._card import CardBackend
        from residue.card._pynq import open_board

        return CardBackend(open_board(address or None))
    if kind == "auto":
        from residue.backends._auto import AutoBackend
        from residue.backends._card import CardBackend
        from residue.backends._cpu import CpuBackend
        from residue.card._pynq import board_in_sight

        def open_card() -> Backend:
            card = get_backend(f"card:{address}" if address else "card")
            assert isinstance(card, CardBackend)
            card.self_test()
            return card

        return AutoBackend(CpuBackend(), open_card if address or board_in_sight() else None)
    if name == "cpu":
        from residue.backends._cpu import CpuBackend

        return CpuBackend()
    raise BackendError(f"no backend is named {name!r}: use cpu, card, card:ADDRESS or auto")
