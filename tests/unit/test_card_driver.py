"""The card's driver against boards that misbehave, and its parts on their own."""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from residue._limbs import from_limbs, to_limbs
from residue.backends import (
    DeviceFallbackWarning,
    Modulus,
    ResidueArray,
    available_backends,
    get_backend,
)
from residue.backends._auto import AutoBackend
from residue.backends._card import CardArray, CardBackend
from residue.backends._cpu import CpuBackend
from residue.card import _abi as abi
from residue.card._abi import Opcode, Register, Status
from residue.card._device import Capabilities
from residue.card._digits import (
    Layout,
    digits_from_limbs,
    exponent_strings,
    limbs_from_digits,
    pack_digits,
)
from residue.card._memory import Block, DeviceMemory, DeviceMemoryError, Extents
from residue.card._plan import Machine
from residue.card._queue import Command as DriverCommand
from residue.errors import (
    BackendError,
    CommandFailed,
    CorruptResult,
    DeviceError,
    DeviceTimeout,
)
from residue_sim.card_model import Command, ModelBoard
from residue_sim.faulty_card import FaultyCard
from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.manifest import configurations

SMALL = configurations()["small"]
P, Q = (int(gmpy2.next_prime(1 << 255)), int(gmpy2.next_prime(3 << 254)))
N = P * Q


class Rig:
    """A card backend on a faulty model of the small card."""

    def __init__(self, **options: Any) -> None:
        options = {"check_rate": 0.0, "timeout": 0.04} | options
        partial = options.pop("partial_writes", False)
        self.board = ModelBoard(SMALL, partial_writes=partial, card=FaultyCard)
        card = self.board.card
        assert isinstance(card, FaultyCard)
        self.card = card
        self.backend = CardBackend(self.board, **options)
        self.modulus = self.backend.register(N)

    def up(self, values: list[int]) -> CardArray:
        return self.backend.upload(self.modulus, limbs(values, self.modulus))


def limbs(values: list[int], modulus: Modulus) -> NDArray[np.uint64]:
    return to_limbs([mpz(v) for v in values], modulus.limbs)


def values_of(backend: Any, array: ResidueArray) -> list[int]:
    return [int(v) for v in from_limbs(backend.download(array))]


# --- conversions --------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, (1 << 640) - 1), min_size=1, max_size=4),
    st.sampled_from([48, 50, 51, 63, 17]),
)
def test_digits_are_those_of_the_golden_model(values: list[int], word_bits: int) -> None:
    k = -(-640 // word_bits)
    rows = to_limbs([mpz(v) for v in values], 10)
    digits = digits_from_limbs(rows, k, word_bits)
    assert digits.tolist() == [to_words(v, word_bits, k) for v in values]
    assert np.array_equal(limbs_from_digits(digits, 10, word_bits), rows)


@pytest.mark.parametrize("bits", [65, 512, 1000, 2048, 4096, 6144])
@pytest.mark.parametrize("shape", [(51, 21, 1), (51, 22, 1), (48, 14, 1), (50, 11, 2), (50, 3, 2)])
def test_modulus_block_is_that_of_the_golden_model(bits: int, shape: tuple[int, int, int]) -> None:
    value = random.Random(bits).getrandbits(bits) | 1 | 1 << (bits - 1)
    word_bits, elements, digits_per_word = shape
    layout = Layout(value, *shape)
    golden = Montgomery.of(value, word_bits, elements, digits_per_word=digits_per_word)
    block = layout.block()
    assert block.view("<u8").tolist() == golden.block()
    assert len(block) == layout.block_bytes
    assert (layout.digits, layout.passes, layout.slots) == (golden.k, golden.passes, golden.slots)
    one = block[layout.one_offset :][: layout.residue_bytes].view("<u8")
    assert from_words(one.tolist(), word_bits) == golden.one


@pytest.mark.parametrize("name", sorted(configurations()))
def test_capabilities_are_those_of_the_configuration(name: str) -> None:
    c = configurations()[name]
    found = Capabilities.read(ModelBoard(c, memory_bytes=1 << 12))
    assert asdict(found) == {
        "word_bits": c.word_bits, "digits_per_word": c.digits_per_word, "elements": c.elements,
        "rings": c.rings, "masters": c.masters, "axi_bytes": c.axi_data_bits // 8,
        "max_modulus_bits": c.max_modulus_bits, "max_exponent_bits": c.max_exponent_bits,
        "contexts": c.contexts, "max_words": c.max_words, "table_entries": c.table_entries,
    }  # fmt: skip
    largest, half = (
        found.machine(found.layout((1 << bits) - 1))
        for bits in (c.max_modulus_bits, c.max_modulus_bits // 3)
    )
    assert (largest.contexts, half.contexts) == (c.contexts // 2, c.contexts)
    assert half.table_entries > largest.table_entries == c.table_entries


@given(st.data(), st.sampled_from([1, 2, 4, 8]))
def test_packed_digits(data: st.DataObject, window: int) -> None:
    rows = data.draw(st.lists(st.integers(0, (1 << window) - 1), min_size=1, max_size=40))
    (packed,) = pack_digits(np.array([rows], np.uint8), window)
    assert len(packed) % 16 == 0
    assert int.from_bytes(packed.tobytes(), "little") == from_words(rows, window)


@given(st.integers(0, (1 << 130) - 1), st.integers(3, 4))
def test_exponent_strings(value: int, width: int) -> None:
    (string,) = exponent_strings(to_limbs([mpz(value)], width), 130)
    assert len(string) == 32
    assert int.from_bytes(string.tobytes(), "little") == value


# --- memory -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400)), max_size=60))
def test_extents_never_overlap_and_merge_again(actions: list[tuple[bool, int]]) -> None:
    extents = Extents(64, 1000)
    held: list[tuple[int, int]] = []
    for take, amount in actions:
        if take:
            address = extents.take(amount)
            largest = max((size for _, size in extents), default=0)
            if address is None:
                assert largest < amount
            else:
                held.append((address, amount))
        elif held:
            extents.give(*held.pop(amount % len(held)))
        pieces = sorted([*held, *extents])
        assert pieces[0][0] == 64
        assert sum(size for _, size in pieces) == 1000
        assert all(a + size == b for (a, size), (b, _) in itertools.pairwise(pieces))
        free = list(extents)
        assert all(a + size < b for (a, size), (b, _) in itertools.pairwise(free))
    for piece in held:
        extents.give(*piece)
    assert list(extents) == [(64, 1000)]


class Standing:
    """Progress of commands, by hand."""

    submitted = 0
    done = 0


@given(
    st.lists(st.tuples(st.sampled_from(["take", "drop", "submit", "complete"]),
                       st.integers(1, 5000)), max_size=80),
)  # fmt: skip
def test_device_memory_never_gives_away_what_is_in_use(actions: list[tuple[str, int]]) -> None:
    """Mixed sizes: blocks never overlap, totals are right, all of it comes back in one piece."""
    board = ModelBoard(SMALL, memory_bytes=1 << 15)
    progress = Standing()
    memory = DeviceMemory(board.allocate, 1 << 14, None, progress)
    held: list[Block] = []
    leaving: list[tuple[int, int, int]] = []
    for action, amount in actions:
        if action == "take":
            largest = memory.largest_free
            if (block := memory.take(amount)) is None:
                assert largest < amount
                if memory.reserved < 1 << 15:
                    block = memory.allocate(amount)
            if block is not None:
                held.append(block)
            del block
        elif action == "drop" and held:
            block = held.pop(amount % len(held))
            leaving.append((block.address, block.nbytes, progress.submitted))
            del block
        elif action == "submit":
            progress.submitted += 1
        elif action == "complete":
            progress.done = min(progress.submitted, progress.done + amount)
        leaving = [entry for entry in leaving if entry[2] > progress.done]
        used = sorted([(b.address, b.nbytes) for b in held] + [e[:2] for e in leaving])
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(used))
        assert all(size % 64 == 0 == a % 64 for a, size in used)
        assert memory.free == memory.reserved - sum(size for _, size in used)
        assert memory.pending == sum(size for _, size, _ in leaving)
        assert memory.largest_free <= memory.free
    held.clear()
    progress.done = progress.submitted
    assert memory.free == memory.reserved
    assert memory.largest_free == min(memory.reserved, 1 << 14)


def test_a_dropped_block_waits_for_the_commands_that_may_read_it() -> None:
    progress = Standing()
    memory = DeviceMemory(ModelBoard(SMALL).allocate, 4096, 4096, progress)
    block = memory.allocate(4096)
    progress.submitted = 3
    del block
    for progress.done in range(3):
        assert memory.take(64) is None
    progress.done = 3
    assert memory.take(4096) is not None


def test_device_memory_frees_dropped_blocks_and_says_what_is_left() -> None:
    board = ModelBoard(SMALL, memory_bytes=1 << 16)
    memory = DeviceMemory(board.allocate, 1 << 14, None, Standing())
    blocks = [memory.allocate(1 << 13) for _ in range(8)]
    assert memory.reserved == 1 << 16
    assert memory.free == 0
    with pytest.raises(DeviceMemoryError, match="0 of 65536 bytes are free"):
        memory.allocate(1)
    address = blocks.pop(3).address
    assert memory.free == 1 << 13
    assert memory.allocate(5000).address == address
    blocks.clear()
    assert memory.free == 1 << 16


def test_device_memory_takes_what_a_short_board_has() -> None:
    board = ModelBoard(SMALL, memory_bytes=10_000)
    memory = DeviceMemory(board.allocate, 1 << 20, None, Standing())
    memory.allocate(6000)
    assert 6000 <= memory.reserved <= 10_000


def test_memory_limit_is_kept() -> None:
    memory = DeviceMemory(ModelBoard(SMALL).allocate, 1 << 20, 4096, Standing())
    kept = memory.allocate(4096)
    assert kept.nbytes == memory.reserved == 4096
    with pytest.raises(DeviceMemoryError):
        memory.allocate(64)


def test_arrays_that_do_not_fit_move_to_the_host_and_back() -> None:
    rig = Rig(arena_bytes=1 << 13, memory_limit=1 << 13, staging_bytes=4096)
    rng = random.Random(1)
    rows = [[rng.randrange(N) for _ in range(20)] for _ in range(6)]  # 6 times 20 * 96 bytes
    arrays = [rig.up(row) for row in rows]
    assert any(a.storage is None for a in arrays)
    total = arrays[0]
    for a in arrays[1:]:
        total = rig.backend.mul(total, a)
    expected = [math.prod(column) % N for column in zip(*rows, strict=True)]
    assert values_of(rig.backend, total) == expected
    assert [values_of(rig.backend, a) for a in arrays] == rows
    assert rig.backend.describe()["memory_bytes"] == 1 << 13


def test_a_batch_larger_than_the_memory_is_computed_in_parts() -> None:
    rig = Rig(arena_bytes=1 << 12, memory_limit=1 << 12, staging_bytes=4096)
    xs = [random.Random(2).randrange(N) for _ in range(150)]
    a = rig.up(xs)
    assert a.storage is None
    cubes = rig.backend.pow(a, np.full((1, 1), 3, np.uint64), 2)
    assert values_of(rig.backend, cubes) == [pow(x, 3, N) for x in xs]
    whole = rig.backend.prod(a, np.arange(150), np.array([0, 150]))
    assert values_of(rig.backend, whole) == [math.prod(xs) % N]


def test_arrays_on_the_host_are_used_like_others() -> None:
    rig = Rig(arena_bytes=1 << 12, memory_limit=1 << 12, staging_bytes=4096)
    xs = [random.Random(4).randrange(N) for _ in range(60)]
    a = rig.up(xs)
    assert a.storage is None
    assert values_of(rig.backend, rig.backend.take(a, np.array([7, 7, 0]))) == [xs[7], xs[7], xs[0]]
    b = rig.up(xs[:30])
    joined = rig.backend.concat([b, a, rig.backend.mul(b, b)])
    assert values_of(rig.backend, joined) == [*xs[:30], *xs, *(x * x % N for x in xs[:30])]
    # Segments of which only some fit at a time.
    index = np.arange(60).repeat(2)
    pairs = rig.backend.prod(a, index, np.arange(0, 121, 2))
    assert values_of(rig.backend, pairs) == [x * x % N for x in xs]


def test_an_array_on_the_host_outlives_a_failed_operation() -> None:
    rig = Rig(arena_bytes=1 << 12, memory_limit=1 << 12, staging_bytes=4096)
    a = rig.up([3] * 20)
    rig.up([11] * 30).wait()
    assert a.storage is None
    rig.card.broken = {Opcode.TO_MONT: Status.READ_ERROR}
    with pytest.raises(CommandFailed):
        rig.backend.mul(a, a).wait()
    rig.card.broken = {}
    assert values_of(rig.backend, rig.backend.mul(a, a)) == [9] * 20


def test_a_board_without_memory_for_buffers_is_refused() -> None:
    with pytest.raises(DeviceError, match="too little free memory"):
        CardBackend(ModelBoard(SMALL, memory_bytes=1 << 16))


# --- plans --------------------------------------------------------------------------------------


def _machine(bits: int = 2048, table_entries: int = 520, rings: int = 1) -> Machine:
    layout = Layout((1 << bits) - 1, 51, 21)
    return Machine(layout, rings, contexts=64, axi_bytes=16, masters=1, table_entries=table_entries)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.integers(2, 64))
def test_chunks_reduce_every_segment_to_one(lengths: list[int], longest: int) -> None:
    left = np.array(lengths)
    for chunk in _machine().chunks(left, longest):
        assert 1 <= chunk <= longest
        left = np.maximum(1, -(-left // chunk))
    assert set(left.tolist()) == {1}


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 400)), min_size=1, max_size=12),
    st.sampled_from([1, 4]),
)
def test_products_of_many_sizes_share_commands(shape: list[tuple[int, int]], rings: int) -> None:
    """Each size fits the command's first, and little is wasted where the rings can be full."""
    machine = _machine(rings=rings)
    sizes = np.sort(np.repeat(*np.array(shape).T))[::-1]
    cuts = machine.batches(sizes)
    assert cuts[0] == 0
    assert cuts[-1] == len(sizes)
    assert all(lo < hi for lo, hi in itertools.pairwise(cuts))
    full = machine.fill * rings
    slots = sum(int(sizes[lo]) * max(hi - lo, full) for lo, hi in itertools.pairwise(cuts))
    apart = sum(size * max(int(count), full) for size, count in zip(
        *map(np.ndarray.tolist, np.unique(sizes, return_counts=True)), strict=True))  # fmt: skip
    assert slots <= 1.25 * min(apart, int(sizes[0]) * max(len(sizes), full))


def test_windows_grow_with_use_and_fit_the_table_store() -> None:
    machine = _machine()
    widths = [machine.comb_window(512, results, None) for results in (1, 100, 10_000)]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] == 8
    assert _machine(table_entries=72).comb_window(512, 10**6, None) == 4
    few, many = (machine.multi_pow_plan(1000, m, 20, buckets=False) for m in (2, 200))
    assert few[1] <= many[1]
    assert not few[0]
    # Many bases and few outputs: tables of the bases would cost more than buckets.
    assert machine.multi_pow_plan(1000, 2, 20, buckets=True)[0]
    assert not machine.multi_pow_plan(4, 200, 20, buckets=True)[0]


def test_plans_divide_work_among_rings() -> None:
    """Many results: four rings on four times the memory take what one takes for a quarter."""
    one, four = _machine(), replace(_machine(rings=4), masters=4)
    for results in (4000, 40_000):
        widths = [m.comb_window(512, n, None) for m, n in ((one, results // 4), (four, results))]
        assert widths[0] == widths[1]
    lengths = np.full(4000, 100)
    assert four.chunks(lengths, 64) == one.chunks(lengths[:1000], 64)


# --- queue --------------------------------------------------------------------------------------


@pytest.mark.parametrize("partial_writes", [False, True])
def test_the_queue_wraps_around(partial_writes: bool) -> None:
    rig = Rig(queue_size=2, partial_writes=partial_writes)
    x = 5
    a = rig.up([x])
    for _ in range(25):
        a = rig.backend.mul(a, a)
        x = x * x % N
        if x % 3 == 0:  # submissions of different lengths
            rig.backend.synchronize()
    assert values_of(rig.backend, a) == [x]


def test_counters_of_the_queue_run_over() -> None:
    rig = Rig(queue_size=4)
    queue = rig.backend._card.queue
    near_the_end = 0xFFFE
    queue._head = queue._tail = near_the_end
    rig.card._registers[Register.HEAD] = rig.card._registers[Register.TAIL] = near_the_end
    a = rig.up([7])
    for _ in range(5):
        a = rig.backend.mul(a, a)
    assert values_of(rig.backend, a) == [pow(7, 32, N)]
    assert rig.board.read32(Register.HEAD) == (near_the_end + 7) & 0xFFFF


def test_small_operations_share_a_start() -> None:
    rig = Rig()
    starts = 0
    write32 = rig.board.write32

    def counting(offset: int, value: int) -> None:
        nonlocal starts
        starts += offset == Register.CTRL
        write32(offset, value)

    rig.board.write32 = counting  # type: ignore[method-assign]
    a = rig.up([3])
    results = [rig.backend.mul(a, a) for _ in range(30)]
    assert starts == 0
    assert values_of(rig.backend, results[-1]) == [9]
    assert starts == 1


def test_large_operations_start_at_once_and_the_next_when_the_card_is_free() -> None:
    rig = Rig()
    a = rig.up([3] * 40)
    exponents = np.full((1, 2), 2**64 - 1, np.uint64)
    for count in (1, 2):
        rig.backend.pow(a, exponents, 128)
        assert rig.card.executed.count(Opcode.POW) == count


def test_operands_travel_in_several_pages() -> None:
    rig = Rig(staging_bytes=4096)
    xs = [random.Random(3).randrange(N) for _ in range(400)]
    a = rig.up(xs)
    assert values_of(rig.backend, rig.backend.mul(a, a)) == [x * x % N for x in xs]


def test_stats_come_from_the_completion_records() -> None:
    rig = Rig()
    a = rig.up([3, 4])
    rig.backend.pow(a, np.array([[5]], np.uint64), 8)
    rig.backend.synchronize()
    stats = rig.backend.stats()["pow"]
    counters = rig.backend.counters()
    assert stats.products == 2 * (11 + 5 * 2)
    assert stats.busy_slots == stats.products * 2 * 13  # passes of k + 1 slots: k = 12, P = 6
    assert stats.device_cycles > stats.busy_slots
    total = rig.backend.stats().values()
    assert counters["products"] == sum(s.products for s in total)
    assert counters["cycles"] == sum(s.device_cycles for s in total)


def test_threads_share_a_card() -> None:
    rig = Rig()
    results: dict[int, list[int]] = {}

    def work(x: int) -> None:
        a = rig.up([x])
        for _ in range(10):
            a = rig.backend.mul(a, a)
        results[x] = values_of(rig.backend, a)

    threads = [threading.Thread(target=work, args=(x,)) for x in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {x: [pow(x, 1024, N)] for x in range(2, 6)}


# --- a card that fails --------------------------------------------------------------------------


@pytest.mark.parametrize("partial_writes", [False, True])
def test_a_card_that_stalls_once_is_reset_and_goes_on(
    partial_writes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(partial_writes=partial_writes)
    rig.card.stalls = {3: 1}
    a = rig.up([3, 5])
    for _ in range(6):
        a = rig.backend.mul(a, a)
    assert values_of(rig.backend, a) == [pow(3, 64, N), pow(5, 64, N)]
    assert rig.backend.describe()["resets"] == 1
    assert "resetting the card" in caplog.text
    # No command ran twice: the upload, six products, the download.
    assert rig.card.executed == [Opcode.TO_MONT, *[Opcode.MUL] * 6, Opcode.FROM_MONT]


def test_each_command_has_a_retry_of_its_own() -> None:
    rig = Rig()
    rig.card.stalls = {1: 1, 4: 1}
    a = rig.up([3])
    for _ in range(6):
        a = rig.backend.mul(a, a)
    assert values_of(rig.backend, a) == [pow(3, 64, N)]
    assert rig.backend.describe()["resets"] == 2


def test_a_card_that_stays_silent_is_given_up() -> None:
    rig = Rig()
    a = rig.up([3])
    rig.backend.synchronize()
    rig.card.stalls = {1: 2}
    b = rig.backend.mul(a, a)
    with pytest.raises(DeviceTimeout, match="no progress"):
        rig.backend.download(b)
    assert rig.backend.describe()["healthy"] is False
    for use in (lambda: rig.backend.mul(a, a), b.wait, rig.backend.synchronize):
        with pytest.raises(DeviceTimeout):
            use()
    rig.backend.close()


def test_a_card_that_works_slowly_is_left_alone() -> None:
    """No command completes for many times the timeout, but products are counted meanwhile."""

    class SlowBoard(ModelBoard):
        looks = 0

        def write32(self, offset: int, value: int) -> None:
            if offset == Register.CTRL:
                self.looks = 60
            else:
                super().write32(offset, value)

        def read32(self, offset: int) -> int:
            if offset in (Register.CYCLES_LO, Register.PRODUCTS_LO):
                return self.looks
            if offset == Register.HEAD and self.looks:
                self.looks -= 1
                if not self.looks:
                    super().write32(Register.CTRL, 1)
            return super().read32(offset)

        def wait_interrupt(self, timeout: float) -> bool:
            threading.Event().wait(timeout)
            return False

    backend = CardBackend(SlowBoard(SMALL), timeout=0.05, check_rate=0.0)
    modulus = backend.register(N)
    a = backend.upload(modulus, limbs([3], modulus))
    assert values_of(backend, a) == [3]
    assert backend.describe()["resets"] == 0


@pytest.mark.parametrize("status", [s for s in Status if s not in (Status.PENDING, Status.OK)])
def test_an_error_status_reaches_what_depends_on_it_alone(status: Status) -> None:
    rig = Rig()
    a = rig.up([3])
    good = rig.backend.mul(a, a)
    rig.card.broken = {Opcode.POW: status}
    bad = rig.backend.pow(a, np.array([[5]], np.uint64), 3)
    worse = rig.backend.mul(bad, a)
    message = f"POW of operation pow .* {status.name} "
    for array in (bad, worse, rig.backend.take(worse, np.array([0]))):
        with pytest.raises(CommandFailed, match=message):
            array.wait()
    with pytest.raises(CommandFailed, match=message):
        rig.backend.download(worse)
    assert values_of(rig.backend, good) == [9]
    assert values_of(rig.backend, rig.backend.mul(good, a)) == [27]


def test_an_unknown_status_is_an_error() -> None:
    rig = Rig()
    rig.card.refuse = {Opcode.TO_MONT: 99}  # type: ignore[dict-item]
    with pytest.raises(CommandFailed, match="unknown status 99"):
        rig.up([3]).wait()


def test_a_failed_table_is_built_again() -> None:
    rig = Rig()
    base = rig.up([3])
    exponents = np.array([[5]], np.uint64)
    rig.card.broken = {Opcode.TABLE: Status.READ_ERROR}
    with pytest.raises(CommandFailed):
        rig.backend.pow_fixed(base, exponents, 3).wait()
    rig.card.broken = {}
    assert values_of(rig.backend, rig.backend.pow_fixed(base, exponents, 3)) == [243]


def test_a_record_of_another_command_is_not_believed() -> None:
    rig = Rig()

    def complete(command: Command) -> bytes:
        return np.zeros(1, abi.COMPLETION_DTYPE).tobytes()

    rig.card.complete = complete  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="record of another command"):
        rig.up([3]).wait()


def test_more_completions_than_commands_are_not_believed() -> None:
    rig = Rig()
    a = rig.up([3])
    read32 = rig.board.read32
    rig.board.read32 = (  # type: ignore[method-assign]
        lambda offset: read32(offset) + 5 * (offset == Register.HEAD)
    )
    with pytest.raises(DeviceError, match="reports 5 completed commands of 0 given"):
        a.wait()


@pytest.mark.parametrize("method", ["read32", "write32"])
def test_a_board_that_goes_away(method: str) -> None:
    rig = Rig()
    a = rig.up([3])

    def gone(*_: int) -> int:
        raise DeviceError("the board does not answer")

    setattr(rig.board, method, gone)
    with pytest.raises(DeviceError, match="does not answer"):
        rig.backend.download(a)
    assert rig.backend.describe()["healthy"] is False


def test_a_transfer_that_fails_gives_the_card_up() -> None:
    rig = Rig()
    a = rig.up([3])

    def gone(*_: object) -> None:
        raise DeviceError("the board does not answer")

    rig.backend._card._page.buffer.write = gone  # type: ignore[method-assign,assignment]
    with pytest.raises(DeviceError, match="does not answer"):
        rig.backend.download(a)
    with pytest.raises(DeviceError, match="does not answer"):
        rig.backend.mul(a, a)


@pytest.mark.parametrize(
    ("register", "value", "message"),
    [(Register.ID, 0, "no residue card"), (Register.VERSION, 1 << 16, "ABI version 1")],
)
def test_another_block_is_not_taken_for_a_card(
    register: Register, value: int, message: str
) -> None:
    board = ModelBoard(SMALL)
    board.card._registers[register] = value
    with pytest.raises(DeviceError, match=message):
        CardBackend(board)


def test_check_rate_is_a_fraction() -> None:
    with pytest.raises(BackendError, match="check_rate"):
        CardBackend(ModelBoard(SMALL), check_rate=2)


@pytest.mark.parametrize(
    ("opcode", "compute"),
    [
        (Opcode.MUL, lambda b, a: b.mul(a, a)),
        (Opcode.POW, lambda b, a: b.pow(a, np.array([[5]], np.uint64), 3)),
        (Opcode.POW_FIXED, lambda b, a: b.pow_fixed(
            b.take(a, np.array([1])), np.array([[5]], np.uint64), 3)),
        (Opcode.PROD, lambda b, a: b.prod(a, np.array([0, 1]), np.array([0, 2]))),
        (Opcode.MULTI_POW, lambda b, a: b.multi_pow(a, np.array([[5], [-2]]), 3)),
        (Opcode.TO_MONT, lambda b, a: b.inverse(a)),
    ],
)  # fmt: skip
def test_a_wrong_result_is_found_and_retires_the_card(
    opcode: Opcode, compute: Callable[[CardBackend, CardArray], CardArray]
) -> None:
    rig = Rig(check_rate=1.0)
    a = rig.up([3, 5])
    rig.backend.synchronize()
    rig.card.flip = {opcode}
    result = compute(rig.backend, a)
    with pytest.raises(CorruptResult, match="wrong result"):
        rig.backend.download(result)
    assert rig.backend.describe()["healthy"] is False


def test_results_are_checked_at_the_chosen_rate() -> None:
    rig = Rig(check_rate=0.25)
    a = rig.up([3] * 400)
    rig.backend.synchronize()
    rig.backend.reset_stats()
    rig.backend.mul(a, a)
    (check,) = rig.backend._checks
    assert 50 < len(check.proofs[0].rows) < 150
    rig.backend.synchronize()
    assert rig.backend._checks == []
    cost = rig.backend.stats()["check"]
    assert (cost.calls, cost.elements) == (1, len(check.proofs[0].rows))
    assert cost.host_products == 4 * cost.elements  # a product, and three residues to fetch
    assert cost.host_seconds > 0


def test_a_residue_that_is_not_canonical_is_found_without_checks() -> None:
    rig = Rig()
    a = rig.up([N - 1])
    rig.card.flip = {Opcode.FROM_MONT}  # N - 1 is even: this makes it N
    with pytest.raises(CorruptResult, match="not canonical"):
        rig.backend.download(a)


def test_self_test_finds_a_card_that_computes_nonsense() -> None:
    rig = Rig()
    rig.backend.self_test()
    rig.card.refuse = {Opcode.SELFTEST: Status.SELFTEST_FAILED}
    with pytest.raises(CommandFailed, match="SELFTEST_FAILED"):
        rig.backend.self_test()
    rig.card.flip = {Opcode.POW}
    with pytest.raises(CorruptResult, match="self-test"):
        rig.backend.self_test()


# --- secrets ------------------------------------------------------------------------------------


def _find(board: ModelBoard, secret: bytes) -> bool:
    return secret in board.dram.read(board.dram.base, board.dram.nbytes)


def test_clear_secrets_erases_exponents_results_and_tables() -> None:
    rig = Rig()
    a = rig.up([3])
    secret = random.Random(9).getrandbits(256)
    exponents = to_limbs([mpz(secret)], 4)
    power = rig.backend.pow(a, exponents, 256)
    base = rig.up([5])
    table = rig.backend.pow_fixed(base, exponents, 256)
    rig.backend.synchronize()
    form = rig.board.dram.read(power.address, 24)
    entry = rig.board.dram.read(rig.backend._combs[base].block.address + 2 * 96, 24)
    for piece in (secret.to_bytes(32, "little"), form, entry):
        assert _find(rig.board, piece)
    assert values_of(rig.backend, power) == [pow(3, secret, N)]
    assert values_of(rig.backend, table) == [pow(5, secret, N)]
    del power
    rig.backend.clear_secrets()
    for piece in (secret.to_bytes(32, "little"), form, entry):
        assert not _find(rig.board, piece)
    assert rig.card.executed[-1] is Opcode.CLEAR
    assert values_of(rig.backend, a) == [3]
    assert not any(page.image.any() for page in rig.backend._card._pages)


def test_close_erases_everything_and_a_second_one_does_nothing() -> None:
    rig = Rig()
    a = rig.up([random.Random(10).randrange(N)])
    rig.backend.synchronize()
    form = rig.board.dram.read(a.address, 24)
    rig.backend.close()
    rig.backend.close()
    assert not _find(rig.board, form)
    assert rig.backend.describe()["healthy"] is False


def test_a_card_that_was_given_up_is_erased_as_well() -> None:
    rig = Rig(check_rate=1.0)
    a = rig.up([random.Random(10).randrange(N)])
    rig.backend.synchronize()
    form = rig.board.dram.read(a.address, 24)
    rig.card.flip = {Opcode.MUL}
    with pytest.raises(CorruptResult):
        rig.backend.mul(a, a).wait()
    assert _find(rig.board, form)
    rig.backend.close()
    assert not _find(rig.board, form)


def test_no_secret_in_representations() -> None:
    rig = Rig()
    a = rig.up([N - 12345])
    for text in (repr(a), repr(rig.backend), repr(rig.modulus), repr(DriverCommand)):
        assert str(N) not in text
        assert str(N - 12345) not in text


# --- auto ---------------------------------------------------------------------------------------


def _auto(rig: Rig) -> AutoBackend:
    auto = AutoBackend(CpuBackend(workers=1), lambda: rig.backend)
    auto.register(N)
    return auto


def _batch(auto: AutoBackend, modulus: Modulus, trip: Callable[[int], None]) -> dict[str, Any]:
    """A bit of everything; `trip` is called between operations."""
    xs = [3, 5, 7, 11]
    a = auto.upload(modulus, limbs(xs, modulus))
    trip(0)
    exponents = np.array([[9], [1], [0], [12]], np.uint64)
    p = auto.pow(a, exponents, 4)
    trip(1)
    f = auto.pow_fixed(auto.take(p, np.array([0])), exponents, 4)
    trip(2)
    s = auto.prod(auto.concat([p, f]), np.array([0, 7, 3]), np.array([0, 1, 3]))
    trip(3)
    m = auto.multi_pow(a, np.array([[1, -2], [3, 0], [-1, 1], [0, 2]]), 2)
    trip(4)
    i = auto.inverse(auto.mul(a, auto.take(s, np.array([1]))))
    exponents[:] = 0
    trip(5)
    arrays = {"a": a, "p": p, "f": f, "s": s, "m": m, "i": i}
    return {name: auto.download(array).tolist() for name, array in arrays.items()}


@pytest.mark.parametrize("when", range(6))
@pytest.mark.parametrize("how", ["stall", "refuse", "corrupt", "gone"])
def test_auto_continues_on_the_cpu_with_nothing_lost(when: int, how: str) -> None:
    reference = AutoBackend(CpuBackend(workers=1), None)
    expected = _batch(reference, reference.register(N), lambda _: None)
    rig = Rig(check_rate=1.0 if how == "corrupt" else 0.0)
    auto = _auto(rig)

    def trip(step: int) -> None:
        if step != when:
            return
        match how:
            case "stall":
                rig.card.stalls = dict.fromkeys(range(len(rig.card.executed), 1000), 99)
            case "refuse":
                rig.card.broken = dict.fromkeys(Opcode, Status.READ_ERROR)
            case "corrupt":
                rig.card.flip = {*Opcode} - {Opcode.SELFTEST, Opcode.CLEAR}
            case "gone":
                rig.board.read32 = _no_answer  # type: ignore[method-assign]

    with pytest.warns(DeviceFallbackWarning, match="a card failed"):
        got = _batch(auto, rig.modulus, trip)
    assert got == expected
    assert auto.describe()["active"] == "cpu"
    auto.close()


def _no_answer(offset: int) -> int:
    raise DeviceError("the board does not answer")


def test_auto_forgets_secrets_with_the_download() -> None:
    auto = _auto(Rig())
    modulus = auto.register(N)
    a = auto.upload(modulus, limbs([3], modulus))
    b = auto.mul(auto.pow(a, np.array([[5]], np.uint64), 3), a)
    assert b.origin is not None
    assert b.origin.compute is not None
    assert values_of(auto, b) == [729]
    assert b.origin.compute is None
    assert b.origin.inputs == ()
    c = auto.pow(a, np.array([[5]], np.uint64), 3)
    auto.clear_secrets()
    assert c.origin is not None
    assert c.origin.compute is None
    assert values_of(auto, c) == [243]


def test_auto_keeps_no_card_memory_of_dropped_arrays() -> None:
    rig = Rig()
    auto = _auto(rig)
    a = auto.upload(rig.modulus, limbs([3] * 100, rig.modulus))
    auto.synchronize()
    before = rig.backend._card.memory.free
    result = a
    for _ in range(10):
        result = auto.mul(result, a)
    auto.synchronize()
    assert before - rig.backend._card.memory.free < 2 * 101 * 96 + 128
    assert values_of(auto, result)[0] == 3**11


def test_auto_bounds_what_an_array_remembers() -> None:
    auto = _auto(Rig())
    modulus = auto.register(N)
    a = auto.upload(modulus, limbs([3], modulus))
    for _ in range(200):
        a = auto.mul(a, a)
        assert a.origin is not None
        assert a.origin.depth <= 64
    assert values_of(auto, a) == [pow(3, 1 << 200, N)]


def test_auto_without_a_healthy_card_says_so() -> None:
    def broken() -> CardBackend:
        raise DeviceError("the self-test failed")

    with pytest.warns(DeviceFallbackWarning, match="the self-test failed"):
        auto = AutoBackend(CpuBackend(workers=1), broken)
    assert auto.describe()["active"] == "cpu"
    assert auto.describe()["healthy"] is True


def test_auto_moves_arrays_when_the_card_is_too_small_for_an_operation() -> None:
    rig = Rig(arena_bytes=4096, memory_limit=4096, staging_bytes=4096)
    auto = _auto(rig)
    a = auto.upload(rig.modulus, limbs([3, 5], rig.modulus))

    def full(*_: object) -> CardArray:
        raise DeviceMemoryError("no memory")

    rig.backend.mul = full  # type: ignore[method-assign,assignment]
    b = auto.mul(a, a)
    assert auto.describe()["active"] == "card"
    c = auto.pow(auto.concat([b, a]), np.array([[2]], np.uint64), 2)
    assert values_of(auto, c) == [81, 625, 9, 25]


def test_auto_sums_the_statistics_of_all_machines() -> None:
    rig = Rig()
    auto = _auto(rig)
    a = auto.upload(rig.modulus, limbs([3, 5], rig.modulus))
    auto.mul(a, a)
    auto.synchronize()
    rig.card.stalls = dict.fromkeys(range(len(rig.card.executed), 1000), 99)
    with pytest.warns(DeviceFallbackWarning):
        auto.mul(a, a).wait()
    assert auto.stats()["mul"].calls == 3  # one of them twice
    auto.reset_stats()
    assert auto.stats() == {}


# --- registry -----------------------------------------------------------------------------------


def test_backends_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PYNQ_REMOTE_DEVICES", "XILINX_XRT", "RESIDUE_OVERLAY"):
        monkeypatch.delenv(variable, raising=False)
    assert available_backends() == ["cpu", "auto"]
    assert get_backend("cpu") is get_backend("cpu")
    assert get_backend("auto").describe()["active"] == "cpu"
    with pytest.raises(BackendError, match="no backend is named 'gpu9'"):
        get_backend("gpu9")
    with pytest.raises(BackendError, match="RESIDUE_OVERLAY"):
        get_backend("card:127.0.0.9")


def test_a_closed_backend_is_opened_anew() -> None:
    first = get_backend("cpu")
    first.close()
    assert get_backend("cpu") is not first
