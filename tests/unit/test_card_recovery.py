"""A card that fails for a while: repeated commands, its self-test, and the way back to it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz

from residue._limbs import from_limbs, to_limbs
from residue.backends import (
    DeviceFallbackWarning,
    ResidueArray,
    _registry,
    clearing_secrets,
    get_backend,
)
from residue.backends._auto import AutoBackend
from residue.backends._card import CardArray, CardBackend
from residue.backends._cpu import CpuBackend
from residue.backends._protocol import Backend
from residue.card._abi import Opcode, Register, Status
from residue.errors import (
    BackendError,
    CommandFailed,
    CorruptResult,
    DeviceError,
    DeviceTimeout,
)
from residue.paillier import keygen
from residue_sim.card_model import ModelBoard
from residue_sim.faulty_card import FaultyCard
from residue_sim.manifest import configurations

SMALL = configurations()["small"]
N = int(gmpy2.next_prime(1 << 255)) * int(gmpy2.next_prime(3 << 254))
PASSING = [Status.READ_ERROR, Status.WRITE_ERROR, Status.STORE_ERROR, Status.BAD_CHECK]


class Rig:
    """A card backend on a faulty model of the small card."""

    def __init__(self, **options: Any) -> None:
        self.board = ModelBoard(SMALL, partial_writes=True, card=FaultyCard)
        card = self.board.card
        assert isinstance(card, FaultyCard)
        self.card = card
        self.backend = CardBackend(self.board, **({"check_rate": 0.0, "timeout": 0.04} | options))

    def up(self, values: list[int]) -> CardArray:
        array = up(self.backend, values)
        assert isinstance(array, CardArray)
        return array


def up(backend: Any, values: list[int]) -> Any:
    modulus = backend.register(N)
    return backend.upload(modulus, to_limbs([mpz(v) for v in values], modulus.limbs))


def down(backend: Backend, array: ResidueArray) -> list[int]:
    return [int(v) for v in from_limbs(backend.download(array))]


# --- once more ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", PASSING)
@pytest.mark.parametrize("opcode", [Opcode.TO_MONT, Opcode.MUL, Opcode.POW, Opcode.FROM_MONT])
def test_a_command_that_fails_for_once_is_repeated(opcode: Opcode, status: Status) -> None:
    rig = Rig()
    rig.card.refuse = {opcode: status}
    a = rig.up([3, 5])
    for _ in range(4):
        a = rig.backend.mul(a, a)
    a = rig.backend.pow(a, np.array([[3]], np.uint64), 2)
    assert down(rig.backend, a) == [pow(3, 48, N), pow(5, 48, N)]
    facts = rig.backend.describe()
    assert (facts["resets"], facts["healthy"]) == (1, True)
    assert Opcode.SELFTEST not in rig.card.executed


def test_commands_behind_a_failed_one_are_repeated_on_what_they_read_before() -> None:
    """A long chain, whose dropped links must not be overwritten while it may be repeated."""
    rig = Rig(queue_size=64, arena_bytes=1 << 16)
    values = [random.Random(1).randrange(N) for _ in range(5)]
    a = rig.up(values)
    rig.backend.synchronize()
    for step in range(40):
        if step == 3:
            rig.card.refuse = {Opcode.MUL: Status.STORE_ERROR}
        b = rig.backend.mul(a, a)
        a = rig.backend.mul(b, a)
    values = [pow(x, 3**40, N) for x in values]
    assert down(rig.backend, a) == values
    assert rig.backend.describe()["resets"] == 1


def test_a_command_that_fails_twice_makes_the_card_test_itself() -> None:
    rig = Rig()
    a = rig.up([3])
    rig.backend.synchronize()
    rig.card.broken = {Opcode.MUL: Status.STORE_ERROR}
    with pytest.raises(CommandFailed, match=r"MUL of operation mul .* STORE_ERROR"):
        rig.backend.mul(a, a).wait()
    assert rig.card.executed[-3:] == [Opcode.MUL, Opcode.MUL, Opcode.SELFTEST]
    assert rig.backend.describe()["healthy"] is True
    rig.card.broken = {}
    assert down(rig.backend, rig.backend.mul(a, a)) == [9]


@pytest.mark.parametrize("status", [Status.SELFTEST_FAILED, Status.STORE_ERROR])
def test_a_card_that_fails_its_self_test_is_retired(status: Status) -> None:
    rig = Rig()
    a = rig.up([3])
    rig.backend.synchronize()
    rig.card.broken = {Opcode.MUL: Status.STORE_ERROR, Opcode.SELFTEST: status}
    with pytest.raises(CommandFailed, match="STORE_ERROR"):
        rig.backend.mul(a, a).wait()
    assert rig.backend.describe()["healthy"] is False
    with pytest.raises(CommandFailed, match=f"SELFTEST .* {status.name}"):
        rig.backend.mul(a, a)


def test_a_command_that_never_ends_is_repeated_after_a_reset() -> None:
    """Its card counts cycles and bytes for ever: signs of life, and no end."""
    rig = Rig()
    rig.card.endless = {Opcode.MUL: 1}
    a = rig.up([3, 5])
    assert down(rig.backend, rig.backend.mul(a, a)) == [9, 25]
    assert rig.backend.describe()["resets"] == 1


def test_a_card_that_never_ends_a_command_is_given_up() -> None:
    rig = Rig()
    rig.card.endless = {Opcode.POW: 2}
    a = rig.up([3, 5])
    powers = rig.backend.pow(a, np.array([[9]], np.uint64), 4)
    with pytest.raises(
        DeviceTimeout, match=r"POW of operation pow .* not complete after [\d,]+ cy"
    ):
        powers.wait()
    assert rig.backend.describe()["healthy"] is False

    rig = Rig()
    auto = AutoBackend(CpuBackend(workers=1), lambda: rig.backend, rest=None)
    rig.card.endless = {Opcode.POW: 2}
    with pytest.warns(DeviceFallbackWarning, match="cycles of work"):
        assert down(auto, auto.pow(up(auto, [3, 5]), np.array([[9]], np.uint64), 4)) == [
            3**9, 5**9,
        ]  # fmt: skip


def test_slack_is_a_factor_of_at_least_one() -> None:
    with pytest.raises(BackendError, match=r"at least 1, not 0\.5"):
        Rig(slack=0.5)


def test_records_tell_what_every_command_did() -> None:
    rig = Rig()
    a = rig.up([3, 5])
    rig.backend.mul(a, a)
    rig.backend.pow(a, np.array([[9]], np.uint64), 4)
    rig.backend.synchronize()
    uploaded, multiplied, raised = records = rig.backend.records()
    assert [r.operation for r in records] == ["upload", "mul", "pow"]
    assert [r.opcode for r in records] == [Opcode.TO_MONT, Opcode.MUL, Opcode.POW]
    assert [r.number for r in records] == [1, 2, 3]
    assert {(r.status, r.count, r.epoch) for r in records} == {(Status.OK, 2, 0)}
    assert {r.modulus_bits for r in records} == {N.bit_length()}
    assert (raised.length, raised.products) == (4, 2 * 16)
    assert uploaded.started + uploaded.cycles == multiplied.started
    assert multiplied.noticed <= raised.noticed
    stats = rig.backend.stats()["pow"]
    assert (stats.device_cycles, stats.busy_slots) == (raised.cycles, raised.busy)
    assert (stats.read_bytes, stats.write_bytes) == (raised.read_bytes, raised.write_bytes)
    assert stats.ring_slots == stats.device_cycles


def test_use_of_several_rings() -> None:
    board = ModelBoard(configurations()["small4"])
    backend = CardBackend(board, check_rate=0.0)
    a = up(backend, [3] * 64)
    backend.pow(a, np.array([[9]], np.uint64), 64)
    backend.synchronize()
    stats = backend.stats()["pow"]
    assert stats.ring_slots == 4 * stats.device_cycles
    assert 0.9 < stats.busy_slots / stats.ring_slots <= 1


# --- inverses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "spoils", "rate"),
    [
        ("inverse", Opcode.TO_MONT, 1.0),
        ("inverse", Opcode.MUL, 0.0),
        ("multi_pow", Opcode.TO_MONT, 1.0),
    ],
)
def test_a_card_is_not_believed_that_there_is_no_inverse(
    operation: str, spoils: Opcode, rate: float
) -> None:
    rig = Rig(check_rate=rate)
    backend = rig.backend

    def use(values: list[int]) -> None:
        a = rig.up(values)
        if operation == "inverse":
            backend.inverse(a)
        else:
            backend.multi_pow(a, np.full((len(a), 1), -3), 2)

    with pytest.raises(BackendError, match="no inverse") as refused:
        use([*range(1, 40), 0])
    assert not isinstance(refused.value, DeviceError)
    rig.card.blank = {spoils}
    with pytest.raises(CorruptResult):
        use([*range(1, 41)])
    assert backend.describe()["healthy"] is False


def test_an_operand_that_lost_its_inverse_is_found_by_the_check() -> None:
    rig = Rig(check_rate=1.0)
    a = rig.up([3, 5])
    rig.backend.synchronize()
    inverses = rig.backend.inverse(a)
    rig.board.dram.write(a.address, bytes(2 * a.stride))
    with pytest.raises(CorruptResult, match="in inverse"):
        rig.backend.download(inverses)


# --- the way back to a card ---------------------------------------------------------------------


class Clinic:
    """Opens a card; a closed one as a new one."""

    def __init__(self) -> None:
        self.rigs: list[Rig] = []
        self.sick = False

    def __call__(self) -> CardBackend:
        if self.sick:
            raise DeviceError("the self-test failed")
        self.rigs.append(Rig())
        backend = self.rigs[-1].backend
        backend.self_test()
        return backend

    def fail(self) -> None:
        def gone(offset: int) -> int:
            raise DeviceError("the board does not answer")

        self.rigs[-1].board.read32 = gone  # type: ignore[method-assign]


class Clock:
    """`time.monotonic`, by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("residue.backends._auto.time.monotonic", made)
    return made


def _lose(auto: AutoBackend, clinic: Clinic, a: Any) -> Any:
    clinic.fail()
    b = auto.mul(a, a)
    with pytest.warns(DeviceFallbackWarning, match="a card failed"):
        b.wait()
    assert auto.describe()["active"] == "cpu"
    return b


def test_auto_tries_a_card_again_after_a_rest(clock: Clock) -> None:
    clinic = Clinic()
    auto = AutoBackend(CpuBackend(workers=1), clinic, rest=60)
    a = up(auto, [3, 5])
    b = _lose(auto, clinic, a)
    clock.now += 59
    auto.mul(b, b)
    assert auto.describe()["active"] == "cpu"
    clock.now += 2
    c = auto.mul(b, a)  # arrays that the CPU made go on on the card
    assert auto.describe()["active"] == "card"
    assert len(clinic.rigs) == 2
    assert c.machine is clinic.rigs[1].backend
    assert down(auto, c) == [27, 125]
    # It fails again, and everything is still there.
    d = _lose(auto, clinic, c)
    assert down(auto, d) == [27**2, 125**2]
    assert down(auto, a) == [3, 5]


def test_auto_rests_longer_each_time(clock: Clock) -> None:
    clinic = Clinic()
    auto = AutoBackend(CpuBackend(workers=1), clinic, rest=60)
    a = _lose(auto, clinic, up(auto, [3]))
    clinic.sick = True
    clock.now += 61
    auto.mul(a, a)  # tried, and still sick
    clinic.sick = False
    clock.now += 119
    auto.mul(a, a)
    assert auto.describe()["active"] == "cpu"
    clock.now += 2
    assert down(auto, auto.mul(a, a)) == [81]
    assert auto.describe()["active"] == "card"


def test_auto_does_not_try_again_if_told_so_or_after_a_wrong_result(clock: Clock) -> None:
    clinic = Clinic()
    auto = AutoBackend(CpuBackend(workers=1), clinic, rest=None)
    a = _lose(auto, clinic, up(auto, [3]))
    clock.now += 1e6
    auto.mul(a, a)
    assert auto.describe()["active"] == "cpu"

    rig = Rig(check_rate=1.0)
    auto = AutoBackend(CpuBackend(workers=1), lambda: rig.backend, rest=60)
    a = up(auto, [3])
    auto.synchronize()
    rig.card.flip = {Opcode.MUL}
    with pytest.warns(DeviceFallbackWarning, match="wrong result"):
        assert down(auto, auto.mul(a, a)) == [9]
    clock.now += 1e6
    assert down(auto, auto.mul(a, a)) == [9]
    assert auto.describe()["active"] == "cpu"


def test_auto_finds_a_card_that_was_not_there_at_first(clock: Clock) -> None:
    clinic = Clinic()
    clinic.sick = True
    with pytest.warns(DeviceFallbackWarning, match="no card can be used"):
        auto = AutoBackend(CpuBackend(workers=1), clinic, rest=60)
    a = up(auto, [3])
    clinic.sick = False
    clock.now += 61
    assert down(auto, auto.mul(a, a)) == [9]
    assert auto.describe()["active"] == "card"


def test_powers_with_a_modulus_each_fall_back(clock: Clock) -> None:
    clinic = Clinic()
    auto = AutoBackend(CpuBackend(workers=1), clinic)
    modulus = auto.register(N)
    wide = auto.register((1 << 2000) + 1)  # larger than the card takes

    def powers() -> list[int]:
        bases = to_limbs([mpz(3), mpz(5)], wide.limbs)
        exponents = np.array([[77]], np.uint64)
        return [int(v) for v in from_limbs(auto.pow_moduli([modulus, wide], bases, exponents, 7))]

    expected = [pow(3, 77, N), pow(5, 77, wide.value)]
    assert powers() == expected
    assert auto.describe()["active"] == "card"
    clinic.fail()
    small = to_limbs([mpz(3)], modulus.limbs)
    with pytest.warns(DeviceFallbackWarning):
        got = auto.pow_moduli([modulus], small, np.array([[77]], np.uint64), 7)
    assert from_limbs(got) == expected[:1]


# --- memory -------------------------------------------------------------------------------------


def test_fragmented_memory_is_joined_on_the_card() -> None:
    rig = Rig(arena_bytes=1 << 14, memory_limit=1 << 14, staging_bytes=4096)
    rng = random.Random(2)
    rows = [[rng.randrange(N) for _ in range(9)] for _ in range(16)]  # 16 times 10 * 96 bytes
    arrays = [rig.up(row) for row in rows]
    views = [rig.backend.take(a, np.array([1, 3, 5])) for a in arrays]
    exponents = np.zeros((1, 1), np.uint64)
    del arrays[::2], views[::2]
    rig.backend.synchronize()
    before = rig.backend.describe()
    assert int(before["memory_free_bytes"]) > 7000 > 2000 > int(before["memory_largest_free_bytes"])
    uneven = np.array([0, 1, 2]), np.array([0, 1, 3])  # filled up with ONE, which lies behind
    for a in arrays:
        rig.backend.prod(a, *uneven)
    wanted = [rng.randrange(N) for _ in range(60)]
    large = rig.up(wanted)
    assert large.storage is not None
    assert all(a.storage is not None for a in arrays), "nothing moved to the host"
    assert rig.backend.stats()["compact"].device_cycles > 0
    assert down(rig.backend, large) == wanted
    for a, view, row in zip(arrays, views, rows[1::2], strict=True):
        assert down(rig.backend, view) == row[1:6:2]
        products = rig.backend.prod(a, *uneven)
        assert down(rig.backend, products) == [row[0], row[1] * row[2] % N]
        assert down(rig.backend, rig.backend.mul(a, a)) == [x * x % N for x in row]
        ones = rig.backend.pow(view, exponents, 1)
        assert down(rig.backend, ones) == [1] * 3


def test_long_chains_do_not_take_all_memory() -> None:
    """Links that were dropped come back as commands complete, though nobody waits for any."""
    rig = Rig(arena_bytes=1 << 14)
    a = rig.up([3] * 40)
    for _ in range(300):
        a = rig.backend.mul(a, a)
    assert int(rig.backend.describe()["memory_bytes"]) <= 4 << 14
    assert down(rig.backend, a) == [pow(3, 1 << 300, N)] * 40


def test_a_failed_copy_is_not_taken_for_the_array() -> None:
    rig = Rig(arena_bytes=1 << 14, memory_limit=1 << 14, staging_bytes=4096)
    arrays = [rig.up([7] * 9) for _ in range(16)]
    del arrays[::2]
    rig.backend.synchronize()
    rig.card.broken = {Opcode.MUL: Status.STORE_ERROR}
    rig.up([3] * 60)
    rig.card.broken = {}
    moved = [a for a in arrays if a.task is not None and a.task.name == "compact"]
    assert moved
    for a in moved:
        with pytest.raises(CommandFailed, match="STORE_ERROR"):
            rig.backend.download(a)


# --- comb tables, moduli ------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["host", "card"])
@pytest.mark.parametrize("bits", [3, 200, 700])
def test_bases_of_comb_rows(monkeypatch: pytest.MonkeyPatch, where: str, bits: int) -> None:
    monkeypatch.setattr(CardBackend, "_host_squares", lambda *_: where == "host")
    rig = Rig()
    base = rig.up([N - 3])
    exponents = [(1 << bits) - 1, 0, random.Random(bits).getrandbits(bits)]
    limbs = to_limbs([mpz(e) for e in exponents], -(-bits // 64))
    powers = rig.backend.pow_fixed(base, limbs, bits)
    assert down(rig.backend, powers) == [pow(N - 3, e, N) for e in exponents]
    assert (Opcode.SQR in rig.card.executed) == (where == "card")


def test_moduli_are_erased_with_the_secrets() -> None:
    rig = Rig()
    a = rig.up([3])
    block = rig.backend._card.modulus(N)
    raw = rig.board.dram.read(block.address, 64)
    assert any(raw)
    rig.backend.clear_secrets()
    assert not any(rig.board.dram.read(block.address, 64))
    assert down(rig.backend, rig.backend.mul(a, a)) == [9]


# --- registry -----------------------------------------------------------------------------------


def test_auto_may_open_its_card_while_others_ask_for_backends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`auto` holds its lock and wants the registry's; a second caller the other way round."""
    auto = get_backend("auto")
    assert isinstance(auto, AutoBackend)
    with auto._lock:
        asked = threading.Thread(target=get_backend, args=("auto",), daemon=True)
        asked.start()
        asked.join(0.2)
        assert asked.is_alive(), "the second caller waits for auto"
        assert _registry._lock.acquire(timeout=10), "and holds no lock of the registry"
        _registry._lock.release()
    asked.join(10)
    assert not asked.is_alive()


CALLS: list[Callable[[CardBackend, CardArray], object]] = [
    lambda b, a: b.wait(a),
    lambda b, a: b.synchronize(),
    lambda b, a: b.clear_secrets(),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_reset_in_the_middle_of_a_batch(
    call: Callable[[CardBackend, CardArray], object],
) -> None:
    """HEAD is back at zero: what was complete stays so, the rest is done again."""
    rig = Rig()
    a = rig.up([3])
    for _ in range(5):
        a = rig.backend.mul(a, a)
    rig.backend.synchronize()
    b = rig.backend.mul(a, a)
    rig.board.write32(Register.SOFT_RESET, 1)
    call(rig.backend, b)
    assert down(rig.backend, b) == [pow(3, 64, N)]
    assert rig.backend.describe()["resets"] == 1


# --- secrets ------------------------------------------------------------------------------------


def test_no_secret_is_left_after_a_decryption() -> None:
    """Primes, exponents and their traces in the board's memory, before and after the job's end."""
    board = ModelBoard(configurations()["r21"])
    backend = CardBackend(board, check_rate=0.0)
    pk, sk = keygen(1024, insecure_allow_1024=True, device=backend)
    ciphertexts = pk.encrypt(np.arange(6))
    p, q = sk.primes
    layouts = [backend._card.capabilities.layout(x * x) for x in (p, q)]
    secrets = [e.to_bytes(64, "little") for e in (p - 1, q - 1)]
    secrets += [layout.block()[32:][: layout.residue_bytes].tobytes() for layout in layouts]  # M

    def found() -> list[bool]:
        memory = board.dram.read(board.dram.base, board.dram.nbytes)
        return [secret in memory for secret in secrets]

    with clearing_secrets(backend):
        assert sk.decrypt(ciphertexts).tolist() == [*range(6)]
        assert found() == [True] * 4
    assert found() == [False] * 4
    used = {
        address
        for array in backend._arrays.values()
        if array.storage is not None
        for address in range(
            array.storage.block.address, array.storage.block.address + array.storage.block.nbytes
        )
    }
    queue = backend._card.queue._buffer
    used |= set(range(queue.physical_address, queue.physical_address + queue.nbytes))
    memory = board.dram.read(board.dram.base, board.dram.nbytes)
    left = {board.dram.base + int(i) for i in np.flatnonzero(np.frombuffer(memory, np.uint8))}
    assert left <= used, "only arrays in use and descriptors, which hold no data"
    assert sk.decrypt(ciphertexts).tolist() == [*range(6)]


def test_secrets_are_cleared_when_a_job_fails() -> None:
    rig = Rig()
    a = rig.up([3])

    def job() -> None:
        with clearing_secrets(rig.backend):
            rig.backend.pow(a, np.array([[5]], np.uint64), 3).wait()
            raise KeyError

    with pytest.raises(KeyError):
        job()
    assert rig.card.executed[-1] is Opcode.CLEAR
