"""One batch over several cards: where parts lie, what moves between cards, and what fails."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from residue._limbs import from_limbs, to_limbs
from residue.backends import Backend, DeviceFallbackWarning, ResidueArray, _registry, get_backend
from residue.backends._auto import AutoBackend
from residue.backends._card import CardArray, CardBackend
from residue.backends._cards import CardsArray, CardsBackend
from residue.backends._cpu import CpuBackend
from residue.card import _pynq
from residue.card._abi import Opcode, Status
from residue.errors import BackendError, CommandFailed, CorruptResult, DeviceError
from residue_sim.card_model import ModelBoard
from residue_sim.faulty_card import FaultyCard
from residue_sim.manifest import configurations

CONFIGURATIONS = configurations()
N = int(gmpy2.next_prime(1 << 255)) * int(gmpy2.next_prime(3 << 254))


class Rig:
    """Several faulty models of small cards behind one backend."""

    def __init__(
        self, cards: int = 3, least: int | None = 1, *, check_rate: float = 0.0
    ) -> None:  # fmt: skip
        self.models: list[FaultyCard] = []
        self.backends: list[CardBackend] = []
        for i in range(cards):
            configuration = CONFIGURATIONS[("small", "small_k")[i % 2]]
            board = ModelBoard(configuration, memory_bytes=1 << 20, card=FaultyCard)
            assert isinstance(board.card, FaultyCard)
            self.models.append(board.card)
            card = CardBackend(
                board, check_rate=check_rate, timeout=0.04, staging_bytes=1 << 16,
                arena_bytes=1 << 17,
            )  # fmt: skip
            self.backends.append(card)
        self.backend = CardsBackend(self.backends, least=least)
        self.modulus = self.backend.register(N)

    def up(self, values: list[int]) -> CardsArray:
        return self.backend.upload(self.modulus, limbs(values))

    def down(self, array: ResidueArray) -> list[int]:
        return values_of(self.backend, array)

    def executed(self, opcode: Opcode) -> list[int]:
        """How many such commands each card has executed."""
        return [model.executed.count(opcode) for model in self.models]


def limbs(values: list[int]) -> NDArray[np.uint64]:
    return to_limbs([mpz(v) for v in values], 8)


def values_of(backend: Backend, array: ResidueArray) -> list[int]:
    return [int(v) for v in from_limbs(backend.download(array))]


def units(n: int) -> list[int]:
    return [random.Random(i).randrange(2, N) for i in range(n)]


def products(xs: list[int], index: NDArray[np.int64], offsets: NDArray[np.int64]) -> list[int]:
    return [
        math.prod(xs[i] for i in index[lo:hi]) % N for lo, hi in itertools.pairwise(offsets)
    ]  # fmt: skip


# --- where parts lie ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "lengths"), [(0, [0]), (1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (11, [3, 4, 4])]
)
def test_arrays_lie_in_nearly_equal_parts(n: int, lengths: list[int]) -> None:
    rig = Rig()
    xs = units(n)
    a = rig.up(xs)
    assert [len(part) for part in a.parts] == lengths
    parts = [part for part in a.parts if isinstance(part, CardArray)]
    assert [part.backend for part in parts] == rig.backends[: len(lengths)]
    assert rig.down(a) == xs


def test_small_batches_stay_on_one_card() -> None:
    """A card that is not full takes no longer with more."""
    rig = Rig(least=None)
    machines = [card.machine(rig.modulus) for card in rig.backends]
    full = max(machine.fill * machine.rings for machine in machines)
    parts = [len(rig.up([3] * n).parts) for n in (full, 2 * full - 1, 2 * full, 9 * full)]
    assert parts == [1, 1, 2, 3]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 11])
def test_every_operation_at_sizes_around_the_number_of_cards(n: int) -> None:
    rig, cpu = Rig(), CpuBackend(workers=1)
    rng = np.random.default_rng(n)
    xs = units(n)
    exponents = rng.integers(0, 1 << 20, (n, 1), dtype=np.uint64)
    index = rng.integers(0, max(n, 1), 3 * n)
    offsets = np.sort(np.concatenate([[0, 3 * n], rng.integers(0, 3 * n + 1, 4)]))
    signed = rng.integers(-7, 8, (n, 5))

    def run(backend: Backend) -> list[list[int]]:
        modulus = backend.register(N)
        a = backend.upload(modulus, limbs(xs))
        one = backend.upload(modulus, limbs([5]))
        results = [
            backend.mul(a, a),
            backend.mul(a, one),
            backend.mul(one, a),
            backend.pow(a, exponents, 20),
            backend.pow(a, np.array([[9]], np.uint64), 20),
            backend.pow_fixed(one, exponents, 20),
            backend.prod(a, index, offsets),
            backend.multi_pow(a, signed, 3),
            backend.inverse(a),
            backend.take(a, index),
            backend.take(a, np.arange(n)[::-1]),
            backend.concat([a, one, a, one]),
        ]
        return [values_of(backend, result) for result in results]

    assert run(rig.backend) == run(cpu)
    moduli = [rig.modulus] * n
    powers = rig.backend.pow_moduli(moduli, limbs(xs), exponents, 20)
    assert np.array_equal(powers, cpu.pow_moduli(moduli, limbs(xs), exponents, 20))


def test_an_operation_runs_on_all_cards_at_once() -> None:
    """No card's part waits for another one's."""
    rig = Rig()
    met = threading.Barrier(3, timeout=30)
    a = rig.up(units(6))
    for model in rig.models:
        model.execute = _meeting(met, model.execute)  # type: ignore[method-assign,assignment]
    a.wait()
    b = rig.backend.mul(a, a)
    b.wait()
    assert rig.executed(Opcode.MUL) == [1, 1, 1]


def _meeting(met: threading.Barrier, execute: Callable[[Any], None]) -> Callable[[Any], None]:
    def both(command: Any) -> None:
        met.wait()
        execute(command)

    return both


def test_threads_share_the_cards() -> None:
    rig = Rig()
    wrong: list[int] = []

    def work(x: int) -> None:
        a = rig.up([x] * 7)
        one = rig.up([x])
        for _ in range(5):
            a = rig.backend.mul(a, one)
        wrong.extend(v for v in rig.down(a) if v != x**6)

    threads = [threading.Thread(target=work, args=(x,)) for x in (2, 3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- what moves ---------------------------------------------------------------------------------


def test_arrays_of_one_length_meet_where_they_are() -> None:
    rig = Rig()
    a, b = rig.up(units(7)), rig.up(units(7))
    rig.backend.reset_stats()
    c = rig.backend.take(rig.backend.mul(a, b), np.arange(7))
    assert set(rig.backend.stats()) == {"mul", "take"}
    assert rig.down(c) == [x * x % N for x in units(7)]


def test_a_base_goes_to_each_card_once() -> None:
    rig = Rig()
    rig.backend.reset_stats()
    base = rig.up([3])
    exponents = np.arange(6, dtype=np.uint64)[:, np.newaxis]
    for _ in range(2):
        powers = rig.backend.pow_fixed(base, exponents, 3)
        assert rig.down(rig.backend.mul(powers, base)) == [3 ** (e + 1) for e in range(6)]
    assert rig.backend.stats()["upload"].elements == 3
    assert rig.executed(Opcode.TABLE) == [1, 1, 1]


def test_a_copy_that_failed_is_made_again() -> None:
    rig = Rig()
    base, a = rig.up([3]), rig.up(units(6))
    rig.backend.synchronize()
    rig.models[2].refuse = {Opcode.TO_MONT: Status.BAD_STRIDE}
    with pytest.raises(CommandFailed, match="BAD_STRIDE"):
        rig.backend.mul(a, base)
    assert rig.down(rig.backend.mul(a, base)) == [3 * x % N for x in units(6)]


def test_a_few_long_products_are_made_where_the_factors_are() -> None:
    rig = Rig()
    xs = units(90)
    a = rig.up(xs)
    rig.backend.synchronize()
    rig.backend.reset_stats()
    index, offsets = np.random.default_rng(1).permutation(90), np.array([0, 45, 90])
    result = rig.backend.prod(a, index, offsets)
    assert [len(part) for part in result.parts] == [1, 1]
    assert rig.backend.stats()["upload"].elements == 4  # three partial products of each, less own
    assert rig.down(result) == products(xs, index, offsets)
    assert all(rig.executed(Opcode.PROD))


def test_many_products_of_few_factors_are_made_where_the_results_are() -> None:
    rig = Rig()
    xs = units(2)
    a = rig.up(xs)
    rig.backend.synchronize()
    rig.backend.reset_stats()
    index = np.tile([0, 1], 60)
    offsets = np.arange(0, 121, 2)
    result = rig.backend.prod(a, index, offsets)
    assert [len(part) for part in result.parts] == [20, 20, 20]
    assert rig.backend.stats()["upload"].elements == 4  # what each card lacks of the two
    assert rig.down(result) == [xs[0] * xs[1] % N] * 60
    assert all(rig.executed(Opcode.PROD))


@pytest.mark.parametrize(("rows", "columns"), [(30, 1), (2, 40)])
@pytest.mark.parametrize("method", ["multi_pow", "multi_pow_var"])
def test_multi_pow_moves_the_smaller_of_bases_and_results(
    rows: int, columns: int, method: str
) -> None:
    rig = Rig()
    xs = units(rows)
    a = rig.up(xs)
    rig.backend.synchronize()
    exponents = np.random.default_rng(rows).integers(-255, 256, (rows, columns))
    before = rig.executed(Opcode.FROM_MONT)
    result = getattr(rig.backend, method)(a, exponents, 8)
    sent = np.subtract(rig.executed(Opcode.FROM_MONT), before)
    # Each card fetches its excess; besides, cards 1 and 2 their result, or 0 and 1 their base.
    assert sent.tolist() == ([1, 2, 2] if rows == 30 else [2, 2, 1])
    assert rig.down(result) == [
        math.prod(pow(x, int(e), N) for x, e in zip(xs, column, strict=True)) % N
        for column in exponents.T
    ]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_gather_and_any_products(data: st.DataObject) -> None:
    rig = Rig()
    arrays, values = [], []
    for n in data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4)):
        values.append(units(n))
        arrays.append(rig.up(units(n)))
    joined, xs = rig.backend.concat([*arrays]), [x for part in values for x in part]
    assert rig.down(joined) == xs
    if not xs:
        return
    index = np.array(data.draw(st.lists(st.integers(0, len(xs) - 1), max_size=20)), np.int64)
    taken = rig.backend.take(joined, index)
    assert rig.down(rig.backend.mul(taken, taken)) == [xs[i] ** 2 % N for i in index]
    inner = data.draw(st.lists(st.integers(0, len(index)), max_size=8))
    offsets = np.array([0, *sorted(inner), len(index)])
    assert rig.down(rig.backend.prod(joined, index, offsets)) == products(xs, index, offsets)


# --- what fails ---------------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[CardsBackend, CardsArray], ResidueArray]] = {
    "mul": lambda b, a: b.mul(a, a),
    "pow": lambda b, a: b.pow(a, np.array([[5]], np.uint64), 3),
    "prod by factors": lambda b, a: b.prod(a, np.arange(9), np.array([0, 9])),
    "prod by results": lambda b, a: b.prod(a, np.arange(9), np.arange(10)),
    "multi_pow": lambda b, a: b.multi_pow(a, np.full((9, 1), 3), 2),
    "inverse": lambda b, a: b.inverse(a),
    "take": lambda b, a: b.take(a, np.arange(9)[::-1]),
    "concat": lambda b, a: b.concat([a, a]),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("how", ["stall", "refuse", "gone"])
def test_an_operation_fails_with_the_card_that_fails(operation: str, how: str) -> None:
    rig = Rig()
    a = rig.up(units(9))
    rig.backend.synchronize()
    match how:
        case "stall":
            model = rig.models[1]
            model.stalls = dict.fromkeys(range(len(model.executed), 1000), 99)
        case "refuse":
            rig.models[1].broken = dict.fromkeys(Opcode, Status.READ_ERROR)
        case "gone":
            rig.backends[1]._card.port.read32 = _no_answer  # type: ignore[method-assign]
    with pytest.raises(DeviceError):
        rig.backend.download(OPERATIONS[operation](rig.backend, a))
    assert rig.backend.describe()["healthy"] is False
    assert rig.backends[0].describe()["healthy"] is True


def _no_answer(offset: int) -> int:
    raise DeviceError("the board does not answer")


def test_an_error_comes_when_the_other_cards_are_done() -> None:
    rig = Rig()
    a = rig.up(units(6))
    failed, done = threading.Event(), threading.Event()
    mul = rig.backends[2].mul

    def fail(*_: ResidueArray) -> CardArray:
        failed.set()
        raise DeviceError("the first card failed")

    def late(x: ResidueArray, y: ResidueArray) -> CardArray:
        failed.wait()
        time.sleep(0.05)
        result = mul(x, y)
        done.set()
        return result

    rig.backends[0].mul = fail  # type: ignore[method-assign,assignment]
    rig.backends[2].mul = late  # type: ignore[method-assign,assignment]
    with pytest.raises(DeviceError, match="the first card failed"):
        rig.backend.mul(a, a)
    assert done.is_set()


def test_a_wrong_result_of_one_card_is_found() -> None:
    rig = Rig(check_rate=1.0)
    a = rig.up(units(9))
    rig.backend.synchronize()
    rig.models[2].flip = {Opcode.MUL}
    result = rig.backend.mul(a, a)
    with pytest.raises(CorruptResult, match="wrong result in mul"):
        rig.backend.download(result)


def test_an_inverse_that_does_not_exist_is_no_failure_of_a_card() -> None:
    rig = Rig()
    with pytest.raises(BackendError, match="no inverse") as raised:
        rig.backend.inverse(rig.up([3, 5, 0, 7]))
    assert not isinstance(raised.value, DeviceError)
    assert rig.backend.describe()["healthy"] is True


@pytest.mark.parametrize("when", range(4))
def test_auto_goes_on_without_the_cards(when: int) -> None:
    rig = Rig()
    auto = AutoBackend(CpuBackend(workers=1), lambda: rig.backend)
    assert auto.describe()["active"] == "cards"
    modulus = auto.register(N)
    xs = units(8)

    def trip(step: int) -> None:
        if step == when:
            rig.backends[1]._card.port.read32 = _no_answer  # type: ignore[method-assign]

    def batch() -> list[int]:
        trip(0)
        a = auto.upload(modulus, limbs(xs))
        trip(1)
        b = auto.mul(a, auto.take(a, np.array([0])))
        trip(2)
        c = auto.prod(b, np.arange(8), np.array([0, 3, 8]))
        trip(3)
        return values_of(auto, c)

    with pytest.warns(DeviceFallbackWarning, match="the board does not answer"):
        got = batch()
    assert got == products([x * xs[0] for x in xs], np.arange(8), np.array([0, 3, 8]))
    assert auto.describe()["active"] == "cpu"
    assert all(card.describe()["healthy"] is False for card in rig.backends)
    auto.close()


# --- housekeeping -------------------------------------------------------------------------------


def test_describe_sums_and_lists_the_cards() -> None:
    rig = Rig(2)
    rig.up(units(4))
    facts, parts = rig.backend.describe(), [card.describe() for card in rig.backends]
    assert facts["cards"] == facts["rings"] == 2
    assert facts["memory_bytes"] == sum(int(part["memory_bytes"]) for part in parts)
    assert facts["max_modulus_bits"] == min(int(part["max_modulus_bits"]) for part in parts)
    rig.models[1].stalls = dict.fromkeys(range(1000), 99)
    with pytest.raises(DeviceError):
        rig.backend.self_test()
    facts = rig.backend.describe()
    assert (facts["card_0"], facts["card_1"]) == (
        "model, 1 rings, healthy", "model, 1 rings, not healthy"
    )  # fmt: skip


def test_stats_are_sums() -> None:
    rig = Rig()
    a = rig.up(units(9))
    rig.backend.synchronize()
    rig.backend.reset_stats()
    rig.backend.mul(a, a).wait()
    stats = rig.backend.stats()["mul"]
    assert (stats.calls, stats.elements, stats.products) == (3, 9, 9)


def test_every_card_is_cleared_and_closed_though_one_fails() -> None:
    rig = Rig()
    a = rig.up(units(9))
    rig.backend.synchronize()
    rig.backends[0]._card.port.read32 = _no_answer  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="does not answer"):
        rig.backend.clear_secrets()
    assert [model.executed[-1] is Opcode.CLEAR for model in rig.models] == [False, True, True]
    rig.backend.close()
    rig.backend.close()
    assert not any(card.describe()["healthy"] for card in rig.backends)
    with pytest.raises(BackendError, match="closed"):
        rig.backend.mul(a, a)


def test_a_modulus_too_large_for_one_card_is_refused() -> None:
    small = CardBackend(ModelBoard(CONFIGURATIONS["small"]))
    large = CardBackend(ModelBoard(CONFIGURATIONS["r21"]))
    backend = CardsBackend([large, small])
    with pytest.raises(BackendError, match="too large for this card"):
        backend.register((1 << 2048) - 1)


def test_misuse_of_the_constructor() -> None:
    card = CardBackend(ModelBoard(CONFIGURATIONS["small"]))
    for cards in ([], [card, card]):
        with pytest.raises(BackendError, match="at least one"):
            CardsBackend(cards)
    with pytest.raises(BackendError, match="at least one element, not 0"):
        CardsBackend([card], least=0)


def test_names_of_several_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_opened", {})
    monkeypatch.setattr(_pynq, "open_board", lambda _: ModelBoard(CONFIGURATIONS["small"]))
    monkeypatch.setattr(_pynq, "board_cards", lambda a: [f"{a or ''}#0", f"{a or ''}#1"])

    def cards(name: str) -> Sequence[Backend]:
        backend = get_backend(name)
        assert isinstance(backend, CardsBackend)
        return backend._cards

    assert cards("cards") == [get_backend("card:#0"), get_backend("card:#1")]
    assert cards("cards:A") == [get_backend("card:A#0"), get_backend("card:A#1")]
    assert cards("cards:A#1,B") == [
        get_backend(f"card:{one}") for one in ("A#1", "B#0", "B#1")
    ]  # fmt: skip
    auto = get_backend("auto:cards:A")
    assert auto.describe()["active"] == "cards"
    with pytest.raises(BackendError, match="named once"):
        get_backend("cards:A,A#0")
    get_backend("cards:A").close()
    assert get_backend("cards:A").describe()["healthy"] is True
