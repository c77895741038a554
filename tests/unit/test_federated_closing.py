"""How a job ends: parties that die at any moment of it, and come back or not."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from residue_federated.errors import PeerFailed, PeerLost, PeerReturned
from residue_federated.transport._closing import Closing

NAMES = ("guest", "host", "arbiter")


class Death(Exception):
    """A party vanishes."""


class World:
    """Parties that call each other; each has a disk, on which it notes how far it is."""

    def __init__(self) -> None:
        self.there: dict[str, Closing] = {}
        self.disk: dict[str, list[str]] = {}
        self.calls: list[tuple[str, str]] = []

    def call(self, caller: str, peer: str) -> bool | None:
        self.calls.append((caller, peer))
        own, other = self.there.get(caller), self.there.get(peer)
        if own is None:
            raise Death
        if other is None:
            return False
        other.hears(caller, dict(own.metadata()), calling=True)
        answer = dict(other.metadata())
        if peer not in self.there:
            return False
        own.hears(peer, answer)
        return True

    def start(self, name: str) -> Closing:
        closing = Closing(threading.Condition())
        self.there[name] = closing
        return closing

    def end(
        self,
        name: str,
        closing: Closing,
        *,
        patience: float = 5.0,
        dies: Callable[[str], bool] = lambda moment: False,
    ) -> list[str]:
        """End, from what the disk tells; `dies` is asked at every moment that leaves a trace."""

        def moment(what: str) -> None:
            if dies(what):
                del self.there[name]
                raise Death

        def call(peer: str) -> bool | None:
            moment("before a call")
            answered = self.call(name, peer)
            moment("after a call")
            return answered

        def keep(done: list[str]) -> None:
            if self.there.get(name) is closing:
                self.disk[name] = done

        others = [other for other in NAMES if other != name]
        again, known = name in self.disk, self.disk.setdefault(name, [])
        moment("done")
        closing.begin(len(others), keep, known)
        self.there[name] = closing
        if len(known) < len(others):
            missing = closing.gather(
                others, call, lambda: None, patience=patience, most_wait=30, spare=again
            )
            if missing:
                del self.there[name]
                return missing
            moment("noted")
        closing.part(others, call, lambda: None, patience=min(patience, 0.5) if again else patience)
        moment("parted")
        del self.there[name]
        return []


def test_all_end_at_once_with_few_calls() -> None:
    world, began = World(), time.monotonic()
    closings = {name: world.start(name) for name in NAMES}
    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(world.end, name, closings[name]) for name in NAMES]
        assert [end.result(10) for end in ends] == [[], [], []]
    assert time.monotonic() - began < 1
    assert len(world.calls) <= 4 * 6
    assert {name: len(known) for name, known in world.disk.items()} == dict.fromkeys(NAMES, 2)


@pytest.mark.parametrize("seed", range(20))
def test_who_dies_at_any_moment_ends_by_starting_again_alone(seed: int) -> None:
    """Each party dies once at most, at a random moment, and is started again; nobody waits long."""
    rng, world = random.Random(seed), World()
    began = time.monotonic()
    mortal = rng.sample(NAMES, rng.randrange(1, 4))

    def live(name: str, left: int, delay: float) -> list[str]:
        def dies(moment: str) -> bool:
            nonlocal left
            left -= 1
            return left == 0

        closing = world.start(name)
        time.sleep(delay)
        try:
            return world.end(name, closing, dies=dies)
        except Death:
            time.sleep(0.05)
            return world.end(name, Closing(threading.Condition()))

    with ThreadPoolExecutor(3) as pool:
        ends = [
            pool.submit(
                live,
                name,
                rng.randrange(1, 12) if name in mortal else 0,
                rng.choice([0, 0.02, 0.2]),
            )
            for name in NAMES
        ]
        assert [end.result(20) for end in ends] == [[], [], []]
    assert time.monotonic() - began < 4  # less than the patience with who does not come
    assert {name: len(known) for name, known in world.disk.items()} == dict.fromkeys(NAMES, 2)


@pytest.mark.parametrize("known", [[], ["arbiter"], ["arbiter", "guest"]])
def test_one_that_was_done_ends_although_nobody_is_left(known: list[str]) -> None:
    world = World()
    world.disk["host"] = known
    began = time.monotonic()
    missing = world.end("host", world.start("host"), patience=0.3)
    assert set(missing) == {"arbiter", "guest"} - set(known)
    assert 0.3 <= time.monotonic() - began < 2
    assert world.disk["host"] == known


def test_the_last_answer_may_be_lost() -> None:
    """Whoever knows that all are done leaves with success when nobody answers any more."""
    world = World()
    host = world.start("host")
    for name in ("guest", "arbiter"):
        host.hears(name, {"residue-stage": "1"}, calling=True)
    assert world.end("host", host, patience=0.2) == []
    assert world.disk["host"] == ["arbiter", "guest"]


def test_a_party_that_is_lost_at_work_is_named() -> None:
    world = World()
    world.start("arbiter").hears("host", {})
    guest = world.start("guest")
    with ThreadPoolExecutor(2) as pool:
        arbiter = pool.submit(world.end, "arbiter", world.there["arbiter"], patience=0.5)
        with pytest.raises(PeerLost, match=r"host has not answered for 0\.5 s, and has not said"):
            world.end("guest", guest, patience=0.5)
        with pytest.raises(PeerLost, match="host has not answered"):
            arbiter.result(10)


def test_a_call_is_not_answered_before_its_caller_is_noted() -> None:
    """Not by another note, of the same peers, that failed."""
    kept: list[list[str]] = []

    def keep(done: list[str]) -> None:
        if not kept:
            kept.append([])
            raise OSError("no space left on device")
        kept.append(done)

    closing = Closing(threading.Condition())
    closing.begin(2, keep, [])
    for name in ("guest", "arbiter"):
        closing.hears(name, {"residue-stage": "1"}, calling=True)
    others = ["guest", "arbiter"]
    with pytest.raises(OSError, match="no space"):
        closing.gather(
            others, lambda peer: True, lambda: None, patience=1, most_wait=9, spare=False
        )
    closing.hears("guest", {"residue-stage": "2"}, calling=True)
    assert kept[1:] == [["guest"]]


def test_a_party_that_works_too_long_is_named() -> None:
    world = World()
    world.start("arbiter"), world.start("host")
    guest = world.start("guest")
    with pytest.raises(PeerLost, match="host is alive but has not said that it is done within 0 s"):
        guest.gather(
            ["host", "arbiter"],
            lambda peer: world.call("guest", peer),
            lambda: None,
            patience=5,
            most_wait=0,
            spare=False,
        )


def test_one_that_is_at_work_again_is_not_left_alone() -> None:
    """What the transport raises of it leaves the wait, as long as not all are known to be done."""

    def call(peer: str) -> bool | None:
        raise PeerReturned("host has come back", 1)

    closing = Closing(threading.Condition())
    with pytest.raises(PeerReturned):
        closing.gather(["host"], call, lambda: None, patience=1, most_wait=9, spare=True)
    closing.part(["host"], call, lambda: None, patience=1)


def test_a_party_that_is_told_to_stop_does_not_wait_for_the_last_answer() -> None:
    def check() -> None:
        if time.monotonic() > began + 0.2:
            raise PeerFailed("guest was told to stop")

    closing, began = Closing(threading.Condition()), time.monotonic()
    closing.part(["host"], lambda peer: False, check, patience=30)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("text", ["", "3", "-1", "x", "\u0661"])
def test_malformed_stages_are_those_of_a_party_at_work(text: str) -> None:
    closing = Closing(threading.Condition())
    closing.hears("host", {"residue-stage": text}, calling=True)
    missing = closing.gather(
        ["host"], lambda peer: False, lambda: None, patience=0.1, most_wait=9, spare=True
    )
    assert missing == ["host"]
