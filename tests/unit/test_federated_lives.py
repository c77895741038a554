"""Lives of parties: who begins again when one of them comes back."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import grpc
import pytest

from residue_federated.errors import FederatedError, PeerReturned, ProtocolError
from residue_federated.transport._lives import LIFE, Lives


class Ended(Exception):
    """A call that was ended, as gRPC does it."""


class Call:
    """A call's context at the party that answers it."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata
        self.trailing: dict[str, str] = {}
        self.code: Any = None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.trailing = dict(metadata)

    def abort(self, code: Any, details: str) -> None:
        self.code = code
        raise Ended(details)


def call(metadata: tuple[tuple[str, str], ...], by: str, at: Lives) -> tuple[Any, int, int]:
    """The code that ends a call, the life it tells of, and the one the called party begins.

    None and 0s where the call passes.
    """
    stopped: list[FederatedError] = []
    context = Call(metadata)
    with contextlib.suppress(Ended):
        at.admit(by, context, stopped.append)
    begun = stopped[0].life if stopped and isinstance(stopped[0], PeerReturned) else 0
    return context.code, int(context.trailing.get(LIFE, 0)), begun


def pair() -> tuple[Lives, Lives]:
    """Guest and host that have met."""
    guest, host = Lives(0), Lives(0)
    assert call(guest.metadata("host"), "guest", host) == (None, 0, 0)
    guest.answered("host", dict(host.metadata("guest")))
    assert call(host.metadata("guest"), "host", guest) == (None, 0, 0)
    return guest, host


def test_who_comes_back_begins_the_next_life_with_the_others() -> None:
    guest, _ = pair()
    returned = Lives(0)
    assert call(returned.metadata("guest"), "host", guest) == (grpc.StatusCode.ABORTED, 1, 1)
    later, guest_later = Lives(1), Lives(1)
    assert call(later.metadata("guest"), "host", guest_later) == (None, 0, 0)
    assert call(guest_later.metadata("host"), "guest", later) == (None, 0, 0)


def test_who_calls_one_that_came_back_begins_the_next_life() -> None:
    guest, _ = pair()
    returned = Lives(0)
    assert call(guest.metadata("host"), "guest", returned) == (grpc.StatusCode.ABORTED, 1, 1)
    with pytest.raises(PeerReturned) as told:
        guest.answered("host", dict(returned.metadata("guest")))
    assert told.value.life == 1


def test_a_call_of_a_later_life_takes_earlier_ones_along_and_waits() -> None:
    _, host = pair()
    later = Lives(4)
    assert call(later.metadata("host"), "guest", host) == (grpc.StatusCode.UNAVAILABLE, 4, 4)
    assert call(host.metadata("guest"), "host", later) == (grpc.StatusCode.ABORTED, 4, 0)


@pytest.mark.parametrize("life", ["", "-1", "1.5", "x", "1" * 10, "\u0661"])
def test_malformed_metadata_ends_the_call_and_nothing_else(life: str) -> None:
    guest, _ = pair()
    code, told, begun = call(((LIFE, life),), "host", guest)
    assert (code, told, begun) == (grpc.StatusCode.INVALID_ARGUMENT, 0, 0)


@pytest.mark.parametrize("metadata", [{}, {LIFE: "one"}, {LIFE: "1" * 10}])
def test_malformed_answers_are_errors_of_who_gave_them(metadata: dict[str, str]) -> None:
    with pytest.raises(ProtocolError, match="host's answer is malformed: it does not say"):
        Lives(0).answered("host", metadata)


@pytest.mark.parametrize("seed", range(20))
def test_all_come_to_one_life_whoever_dies_and_whoever_calls_first(seed: int) -> None:
    """Parties call each other at random, some die; at last all are in one life and stay there."""
    rng = random.Random(seed)
    names = ["guest", "host", "arbiter", "other"]
    lives = {name: Lives(0) for name in names}

    def some_call() -> bool:
        caller, called = rng.sample(names, 2)
        code, told, begun = call(lives[caller].metadata(called), caller, lives[called])
        if begun:
            lives[called] = Lives(begun)
        if code == grpc.StatusCode.ABORTED:
            lives[caller] = Lives(told)
        return code is None

    for step in range(200):
        if step in (40, 60, 61):
            lives[rng.choice(names)] = Lives(0)
        some_call()
    assert all(some_call() for _ in range(100))
