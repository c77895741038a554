"""Bench of residue_commands: commands checked, loaded, run, aborted and recorded, in order."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue.card import _abi as abi
from residue.card._abi import CommandFlag, ModulusVector, Opcode, Status
from residue_sim.golden import Montgomery
from residue_sim.harness import run_bench
from residue_sim.job import unpack_job, unpack_share
from residue_sim.manifest import configurations
from residue_sim.scenarios import encode
from residue_sim.stimuli import odd_modulus

# Wide: ring words of two digits, and room for tables of 8-bit digits.
WIDE = replace(configurations()["small_k"], table_entries=600)
CARDS = {"small": configurations()["small"], "wide": WIDE}
CARD = CARDS[os.environ.get("CARD", "small")]
WIDE_TABLES = CARD.table_entries >= 2 * 256 + 3  # two rows of the widest digits fit
EMIT_RESULTS = 16
RINGS = 3
FIRST = 3  # entry of the table store at which tables start
QUEUE, MODULI = 0x1_FFFF_FF80, 0x2_0001_0000
QUEUE_SIZE = 8
ACC, TAB, M, N, HERE = 0, 1, 3, 5, 6  # stores
FIXED = (Opcode.POW_FIXED, Opcode.MULTI_POW)
EXPONENTS = (Opcode.POW, *FIXED)
GOOD_SIZES = (4, 6, 12, 14, 22)  # digits; up to 12 is the half class
READ_ERRORS = ("read_window_error", "read_axi_error")
ERROR_STATUS = {
    "read_window_error": Status.OUT_OF_WINDOW,
    "write_window_error": Status.OUT_OF_WINDOW,
    "read_axi_error": Status.READ_ERROR,
    "write_axi_error": Status.WRITE_ERROR,
    "store_error": Status.STORE_ERROR,
    "element_modulus_bad": Status.BAD_MODULUS,
    "element_modulus_even": Status.EVEN_MODULUS,
}
COUNTS = {"busy": RINGS, "products": RINGS, "stalls": RINGS, "read_bytes": 64, "write_bytes": 16}


@dataclass
class Case:
    """One command, the header of its modulus block, and how it must end."""

    opcode: int
    status: Status = Status.OK
    k: int = 12
    even: bool = False
    fields: dict[str, int] = field(default_factory=dict)
    header_k: int | None = None  # what the block claims instead of k
    fail: tuple[str, str] | None = None  # error flag, and where: fetch, header, vectors or run
    mismatch: bool = False
    changed: int = 0  # bits of the command that flip on its way

    def __post_init__(self) -> None:
        bits = CARD.word_bits * (self.k - CARD.digits_per_word) - 2
        self.domain = Montgomery.of(
            odd_modulus(random.Random(self.k), bits),
            CARD.word_bits,
            CARD.elements,
            digits_per_word=CARD.digits_per_word,
        )
        assert self.domain.k == self.k
        rows = self.k // 2
        defaults = {
            "opcode": self.opcode,
            "window": 4,
            "tag": 0xC0DE0000 + self.opcode,
            "modulus": MODULI + (self.k << 16),  # every block at a place of its own
            "src_a": 0x3_0000_0010,
            "src_b": 0x4_0000_0020,
            "exponents": 0x5_0000_0030,
            "dst": 0x6_0000_0040,
            "count": 1000,
            "length": 33,
            "stride_a": rows,
            "stride_b": rows + 1,
            "stride_e": 4,
            "stride_dst": rows + 2,
        }
        if self.even or self.header_k is not None:
            defaults["modulus"] += 1 << 15
        self.fields = defaults | self.fields

    @property
    def per_element(self) -> bool:
        flags = self.fields.get("flags", 0)
        return self.opcode == Opcode.POW and bool(flags & CommandFlag.MODULUS_PER_ELEMENT)

    @property
    def runs(self) -> bool:
        """Whether it comes to be run."""
        return self.opcode not in (Opcode.NOP, Opcode.CLEAR) and (
            self.status in (Status.OK, Status.SELFTEST_FAILED)
            or (self.fail is not None and self.fail[1] == "run")
        )

    @property
    def descriptor(self) -> bytes:
        sent = int.from_bytes(encode(self.fields), "little")
        return (sent ^ self.changed).to_bytes(abi.COMMAND_DTYPE.itemsize, "little")

    @property
    def block(self) -> list[int]:
        words = self.domain.block()
        if self.header_k is not None:
            words[0] = self.header_k
        return words

    @property
    def job(self) -> dict[str, int]:
        """What the card's parts are told; only what the opcode uses."""
        f, op, k = self.fields, self.opcode, self.k
        half = 2 * ((CARD.max_words + 3) // 4)
        size = half if k <= half else CARD.max_words
        table_rows = CARD.table_entries * (CARD.max_words // 2)
        entries = table_rows // (size // 2)
        cap = CARD.contexts if k <= half else CARD.contexts // 2
        if op == Opcode.POW:
            cap = min(cap, (entries - FIRST) // 16)
        job = {
            "opcode": op,
            "length": -(-f["length"] // 4) if op == Opcode.POW else f["length"],
            "k": k,
            "words": k // CARD.digits_per_word,
            "rows": k // 2,
            "slots": max(k // CARD.digits_per_word, CARD.elements) + 1,
            "passes": -(-k // CARD.digits_per_word // CARD.elements),
            "cap": cap,
            "emit_cap": EMIT_RESULTS * (CARD.max_words // 2) // (size // 2),
            "per_element": self.per_element,
            "init_from_a": op in FIXED and bool(f.get("flags", 0) & CommandFlag.INIT_FROM_A),
        }
        if op != Opcode.SELFTEST:
            job["count"] = f["count"]
        if op in FIXED:
            job["table_addr"] = f["src_b"]
        job |= {n: f[n] for n in ("stride_a", "stride_b", "stride_e", "stride_dst")}
        if op in (*EXPONENTS, Opcode.TABLE):
            job["window_log2"] = f["window"].bit_length() - 1
        if op in EXPONENTS:
            bits = f["length"] * (1 if op == Opcode.POW else f["window"])
            job["exp_rows"] = -(-bits // 128)
        return job

    @property
    def shares(self) -> list[dict[str, int]]:
        """What each lane is told of its share; only what the opcode uses."""
        f, op = self.fields, self.opcode
        if op == Opcode.SELFTEST:
            return [{"count": self.job["cap"]}] * RINGS
        shares = []
        first = 0
        for ring in range(RINGS):
            n = f["count"] // RINGS + (ring < f["count"] % RINGS)
            share = {"first": first, "count": n}
            gathers = op == Opcode.PROD
            entries = 1 << f["window"] if op == Opcode.TABLE else 1
            for name, step in (
                ("src_a", 0 if gathers else f["stride_a"]),
                ("src_b", f["stride_b"] if op == Opcode.MUL or self.per_element else None),
                ("exponents", 0 if gathers else f["stride_e"] if op in EXPONENTS else None),
                ("dst", f["stride_dst"] * entries),
            ):
                if step is not None:
                    base = f["modulus" if self.per_element and name == "src_b" else name]
                    share[name] = base + first * step * 16
            shares.append(share)
            first += n
        return shares

    def reads(self, entry: int, loaded: int | None) -> list[tuple[int, int, int, int]]:
        """Address, rows, store and row of everything that is read for this command.

        `loaded` is the modulus block that the stores hold.
        """
        fetch = [(entry, 4, HERE, 0)]
        stage = self.fail[1] if self.fail else ""
        no_fit = self.opcode in FIXED and self.fields["window"] == 8  # known from k
        early = (Status.BAD_CHECK, Status.UNKNOWN_OPCODE, Status.UNALIGNED, Status.ZERO_COUNT,
                 Status.EXPONENT_TOO_LONG, *([] if no_fit else [Status.BAD_WINDOW]))  # fmt: skip
        if self.opcode in (Opcode.NOP, Opcode.CLEAR) or self.status in early or stage == "fetch":
            return fetch
        modulus, rows = self.fields["modulus"], self.k // 2
        if modulus == loaded:
            return fetch
        header = [(modulus, 2, HERE, 0)]
        late = (Status.BAD_MODULUS, Status.BAD_STRIDE, Status.BAD_WINDOW)
        if (self.status in late and stage != "run") or stage == "header":
            return fetch + header

        def at(vector: ModulusVector) -> int:
            return modulus + 8 * (abi.MODULUS_HEADER_WORDS + vector * self.k)

        return [
            *fetch,
            *header,
            (at(ModulusVector.M), rows, M, 0),
            (at(ModulusVector.N), rows, N, 0),
            (at(ModulusVector.R2), rows, TAB, 0),
            (at(ModulusVector.ONE), rows, TAB, rows),
            (at(ModulusVector.ONE), rows, ACC, 0),
            (at(ModulusVector.RADIX), rows, TAB, 2 * rows),
        ]


class Bench:
    """Registers, DMA, engine, loader and storer around the command processor."""

    def __init__(self, dut: Any, pace: float) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.pace = pace
        self.head = 0
        self.loaded: int | None = None
        self.clock = 0  # cycles since reset
        self.last_fetch: tuple[int, int] | None = None  # clock, and what the record says

    def put(self, **signals: Any) -> None:
        """Drive inputs that change."""
        for name, value in signals.items():
            if self._driven.get(name) != value:
                self._driven[name] = value
                getattr(self.dut, name).value = value

    def get(self, name: str) -> int:
        return int(getattr(self.dut, name).value)

    async def reset(self) -> None:
        self._driven: dict[str, Any] = {}
        Clock(self.dut.clk, 2, "ns").start()
        inputs = """rst_n start_i engine_busy_i loader_busy_i storer_busy_i storer_waiting_i
            mismatch_i store_error_i element_modulus_bad_i element_modulus_even_i modulus_even_i
            inc_busy_i inc_products_i inc_stalls_i
            inc_read_bytes_i inc_write_bytes_i read_window_error_i read_axi_error_i
            write_window_error_i write_axi_error_i m_read_ready s_answer_valid m_write_ready
            m_data_ready tail_i"""
        self.put(**dict.fromkeys(inputs.split(), 0))
        self.put(queue_base_i=QUEUE, queue_size_i=QUEUE_SIZE, read_idle_i=1, write_idle_i=1)
        await FallingEdge(self.dut.clk)
        await FallingEdge(self.dut.clk)
        self.put(rst_n=1)

    def chance(self) -> bool:
        return self.rng.random() < self.pace

    async def start(self, tail: int) -> None:
        self.put(tail_i=tail, start_i=1)
        self.loaded = None
        assert self.get("idle_o")
        await FallingEdge(self.dut.clk)
        self.clock += 1
        self.put(start_i=0)
        assert not self.get("idle_o")

    async def serve(self, case: Case) -> None:
        """Be the rest of the card until this command has completed; check everything it did."""
        self.case = case
        self.entry = QUEUE + self.head % QUEUE_SIZE * abi.DESCRIPTOR_BYTES
        self.done = False
        self.cycle = 0
        self.reading: deque[tuple[int, int, int, int]] = deque()  # accepted, not answered
        self.answer: deque[int] = deque()
        self.reads: list[tuple[int, int, int, int]] = []
        self.fetched_in = self.recorded_in = 0
        self.started = self.cleared = False
        self.parts = dict.fromkeys(("engine", "loader", "storer"), 0)  # cycles still busy
        self.aborted = self.flushed = False
        self.quiet = 0
        self.counts = dict.fromkeys(COUNTS, 0)
        self.shares: list[dict[str, int]] = []
        self.fetch_clock = 0
        self.record: list[int] = []
        self.record_left = 0  # cycles until the record is acknowledged
        self.record_asked = False
        while not self.done:
            await self._cycle()
        self.head = (self.head + 1) & 0xFFFF
        self._check()
        ran_well = case.runs and case.status == Status.OK
        self.loaded = case.fields["modulus"] if ran_well else None

    async def _cycle(self) -> None:
        self._reads()
        self._parts()
        self._writes()
        active = self.fetched_in > 0 and not self.record_asked
        for name, most in COUNTS.items():
            count = self.rng.randrange(most + 1) if active and self.chance() else 0
            self.put(**{f"inc_{name}_i": count})
            self.counts[name] += count
        if self.get("share_valid_o"):
            assert self.get("share_ring_o") == len(self.shares)
            self.shares.append(unpack_share(self.get("share_o")))
        self.done = bool(self.get("command_o"))
        if self.done:
            assert self.get("error_o") == (self.case.status != Status.OK)
            assert self.get("head_o") == self.head
        await FallingEdge(self.dut.clk)
        self.cycle += 1
        self.clock += 1

    def _raise(self, stage: str) -> None:
        if self.case.fail and self.case.fail[1] == stage:
            self.put(**{f"{self.case.fail[0]}_i": 1})

    def _reads(self) -> None:
        if self.get("error_clear_o"):
            self.put(**{f"{name}_i": 0 for name in ERROR_STATUS})
        valid, ready = self.get("m_read_valid"), self.chance()
        if valid:
            address, rows = self.get("m_read_addr"), self.get("m_read_rows")
            request = (address, rows, self.get("m_read_store"), self.get("m_read_row"))
            if not self.fetched_in:
                self.fetched_in, self.fetch_clock = self.cycle, self.clock
            if ready:
                self.reads.append(request)
        answer = even = False
        if self.answer:
            answer = self.chance()
        elif self.reading and self.chance():
            address, _, store, _ = self.reading[0]
            if store == HERE:
                fetch = address == self.entry
                self._raise("fetch" if fetch else "header")
                raw = self.case.descriptor if fetch else bytes(0)
                words = self.case.block[:4] if not fetch else list(np.frombuffer(raw, "<u8"))
                pairs = [
                    int(a) | int(b) << 64 for a, b in zip(words[::2], words[1::2], strict=True)
                ]
                failed = self.case.fail and self.case.fail[0] == "read_window_error"
                stage = "fetch" if fetch else "header"
                if failed and self.case.fail and self.case.fail[1] == stage:
                    pairs = [0]  # a request outside the window answers with one beat
                self.answer += pairs
            else:
                self.reading.popleft()
                even = store == N and self.case.even
                if store == TAB:
                    self._raise("vectors")
        last = len(self.answer) == 1
        if answer:
            self.put(s_answer_data=self.answer.popleft())
            if last:
                self.reading.popleft()
        self.put(m_read_ready=ready, s_answer_valid=answer, s_answer_last=answer and last)
        self.put(modulus_even_i=even)
        if valid and ready:
            self.reading.append(request)
        self.put(read_idle_i=not self.reading)

    def _parts(self) -> None:
        case, parts = self.case, self.parts
        if self.get("start_o"):
            assert not self.started
            self.started = True
            assert not self.reading, "started before the modulus was there"
            job = unpack_job(self.get("job_o"))
            assert {name: job[name] for name in case.job} == case.job
            assert len(self.shares) == RINGS
            for got, share in zip(self.shares, case.shares, strict=True):
                assert {name: got[name] for name in share} == share, case
            assert self.get("n0inv_o") == case.domain.n0inv % (1 << CARD.word_bits)
            parts |= {name: self.rng.randrange(1, 60) for name in parts}
            if case.opcode == Opcode.SELFTEST:
                parts["loader"] = 0
            parts["storer"] = max(parts.values()) + 5
            self.fail_in = self.rng.randrange(parts["storer"])
        elif self.get("clear_o"):
            assert case.opcode == Opcode.CLEAR
            assert not self.cleared
            self.cleared = True
            parts["engine"] = 20
        elif self.started:
            if self.fail_in == 0:
                self._raise("run")
            self.fail_in -= 1
            for name, left in parts.items():
                parts[name] = max(0, left - 1)
            failing = case.fail is not None and case.fail[1] == "run"
            if self.get("abort_o"):
                assert failing
                self.aborted = True
            assert not self.get("flush_o") or self.quiet >= 500, "flushed too early"
            self.flushed |= bool(self.get("flush_o"))
            if failing and not self.flushed:
                parts["storer"] = 5  # waits for results that do not come
        elif self.cleared:
            parts["engine"] = max(0, parts["engine"] - 1)
        others = parts["engine"] or parts["loader"] or self.reading
        waiting = self.aborted and not others and self.rng.random() < 0.999
        self.quiet = self.quiet + 1 if waiting else 0
        self.put(**{f"{name}_busy_i": left > 0 for name, left in parts.items()})
        self.put(storer_waiting_i=waiting, mismatch_i=self.started and case.mismatch)

    def _writes(self) -> None:
        ready, data_ready = self.chance(), self.chance()
        if self.get("m_write_valid"):
            if not self.record_asked:
                self.recorded_in = self.cycle
                self.record_asked = True
                assert not any(self.parts.values()), "recorded before the command was done"
                assert not self.reading
            assert self.get("m_write_addr") == self.entry + abi.COMPLETION_OFFSET
            assert self.get("m_write_rows") == 4
            if ready:
                self.record_left = 5
        if self.get("m_data_valid") and data_ready:
            assert self.get("m_data_last") == (len(self.record) == 3)
            self.record.append(self.get("m_data"))
        elif len(self.record) == 4 and self.record_left:
            self.record_left -= 1
        assert not self.get("command_o") or not self.record_left, "completed before its record"
        self.put(m_write_ready=ready, m_data_ready=data_ready, write_idle_i=not self.record_left)

    def _check(self) -> None:
        case = self.case
        assert self.reads == case.reads(self.entry, self.loaded), case
        assert self.started == case.runs, case
        assert self.cleared == (case.opcode == Opcode.CLEAR and case.status == Status.OK)
        assert self.aborted == self.flushed == (case.fail is not None and case.fail[1] == "run")
        if case.fail and case.fail[1] == "fetch":
            assert not self.record_asked
            return
        raw = b"".join(beat.to_bytes(16, "little") for beat in self.record)
        (record,) = np.frombuffer(raw, abi.COMPLETION_DTYPE)
        assert record["status"] == case.status, case
        (command,) = np.frombuffer(case.descriptor, abi.COMMAND_DTYPE)
        assert record["tag"] == command["tag"]
        assert record["cycles"] == self.recorded_in - self.fetched_in
        assert {name: record[name] for name in COUNTS} == self.counts
        begun = int(record["started"])
        if self.last_fetch is not None:
            clock, before = self.last_fetch
            assert begun - before == self.fetch_clock - clock
        self.last_fetch = self.fetch_clock, begun

    async def run(self, cases: list[Case]) -> None:
        """Put the commands into the queue at once and serve them."""
        await self.start((self.head + len(cases)) & 0xFFFF)
        for case in cases:
            await self.serve(case)
        assert self.get("done_o")
        await FallingEdge(self.dut.clk)
        self.clock += 1
        assert self.get("idle_o")
        assert self.get("head_o") == self.head


def good_commands() -> Iterator[Case]:
    for k in GOOD_SIZES:
        for op in Opcode:
            yield Case(op, k=k)
    # What an opcode does not use may hold anything.
    yield Case(Opcode.NOP, fields={"count": 0, "modulus": 3, "dst": 1})
    yield Case(Opcode.CLEAR, fields={"count": 0, "modulus": 3, "dst": 1})
    yield Case(Opcode.SQR, fields={"src_b": 1, "exponents": 2, "window": 3, "stride_e": 0})
    yield Case(Opcode.SELFTEST, fields={"src_a": 1, "dst": 5, "count": 0, "stride_dst": 0})
    yield Case(Opcode.POW_FIXED, fields={"src_a": 4, "stride_a": 0})
    yield Case(Opcode.MUL, fields={"length": 0, "stride_a": 0, "stride_b": 0})
    yield Case(Opcode.TABLE, fields={"window": 8, "length": 0})
    # At the bounds.
    longest = CARD.max_exponent_bits
    yield Case(Opcode.POW, fields={"length": longest})
    yield Case(Opcode.POW, fields={"length": 128, "stride_e": 1})
    yield Case(Opcode.POW_FIXED, fields={"length": longest // 2, "window": 2})
    yield Case(Opcode.MULTI_POW, fields={"length": longest, "window": 1, "count": 1})
    yield Case(Opcode.MULTI_POW, k=4, fields={"flags": CommandFlag.INIT_FROM_A})
    if WIDE_TABLES:
        yield Case(Opcode.POW_FIXED, fields={"window": 8})
    own = {"flags": int(CommandFlag.MODULUS_PER_ELEMENT)}
    for stride in (0, 2 + 5 * 6, 100):
        yield Case(Opcode.POW, fields=own | {"stride_b": stride})
    yield Case(Opcode.MUL, fields=own)


def bad_commands() -> Iterator[Case]:
    for byte in range(abi.COMMAND_DTYPE.itemsize):
        yield Case(Opcode.MUL, Status.BAD_CHECK, changed=1 << (8 * byte + byte % 8))
    for op in (Opcode.NOP, Opcode.CLEAR):
        sent = int.from_bytes(encode(Case(op).fields), "little")
        for nonsense in (0, (1 << 512) - 1):
            yield Case(op, Status.BAD_CHECK, changed=sent ^ nonsense)
    yield Case(12, Status.UNKNOWN_OPCODE)
    yield Case(0xFF, Status.UNKNOWN_OPCODE)
    uses = {
        "modulus": Opcode.SELFTEST,
        "src_a": Opcode.SQR,
        "src_b": Opcode.MUL,
        "exponents": Opcode.PROD,
        "dst": Opcode.TABLE,
    }
    for name, op in uses.items():
        for bit in (0, 3):
            yield Case(op, Status.UNALIGNED, fields={name: 0x7_0000_0000 + (1 << bit)})
    for op in EXPONENTS:
        yield Case(op, Status.UNALIGNED, fields={"exponents": 8})
    init = {"flags": CommandFlag.INIT_FROM_A}
    yield Case(Opcode.POW_FIXED, Status.UNALIGNED, fields={"src_a": 8} | init)
    yield Case(Opcode.MUL, Status.ZERO_COUNT, fields={"count": 0})
    for op in (Opcode.SQR, Opcode.PROD, Opcode.SELFTEST, *EXPONENTS):
        yield Case(op, Status.ZERO_COUNT, fields={"length": 0})
    for op, window in (
        (Opcode.POW, 1),
        (Opcode.POW, 8),
        (Opcode.TABLE, 3),
        (Opcode.POW_FIXED, 0),
        (Opcode.MULTI_POW, 16),
        *([] if WIDE_TABLES else [(Opcode.MULTI_POW, 8)]),
    ):
        yield Case(op, Status.BAD_WINDOW, fields={"window": window, "length": 2})
    longest = CARD.max_exponent_bits
    for op, length, stride in (
        (Opcode.POW, longest + 1, 16),
        (Opcode.POW, 1 << 31, 16),
        (Opcode.POW, 129, 1),
        (Opcode.POW_FIXED, longest // 4 + 1, 16),
        (Opcode.MULTI_POW, 33, 1),
    ):
        fields = {"length": length, "stride_e": stride}
        yield Case(op, Status.EXPONENT_TOO_LONG, fields=fields)
    for k in (0, 2, 5, CARD.max_words + 1, CARD.max_words + 2, 256 + 12):
        yield Case(Opcode.SQR, Status.BAD_MODULUS, header_k=k)
    yield Case(Opcode.SQR, Status.EVEN_MODULUS, even=True)
    for op, name, stride in (
        (Opcode.SQR, "stride_a", 5),
        (Opcode.PROD, "stride_a", 0),
        (Opcode.MUL, "stride_b", 5),
        (Opcode.POW_FIXED, "stride_b", 0),
        (Opcode.MULTI_POW, "stride_b", 5),
        (Opcode.TO_MONT, "stride_dst", 0),
        (Opcode.TABLE, "stride_dst", 5),
    ):
        yield Case(op, Status.BAD_STRIDE, fields={name: stride})
    yield Case(Opcode.POW_FIXED, Status.BAD_STRIDE, fields={"stride_a": 5} | init)
    own = {"flags": int(CommandFlag.MODULUS_PER_ELEMENT)}
    yield Case(Opcode.POW, Status.BAD_STRIDE, fields={"stride_b": 31} | own)


async def prepared(dut: Any, pace: float) -> Bench:
    bench = Bench(dut, pace)
    await bench.reset()
    return bench


def in_queues(cases: Iterator[Case]) -> Iterator[list[Case]]:
    listed = list(cases)
    for start in range(0, len(listed), QUEUE_SIZE - 1):
        yield listed[start : start + QUEUE_SIZE - 1]


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(pace=[1.0, 0.4])
async def good_commands_run(dut: Any, pace: float) -> None:
    bench = await prepared(dut, pace)
    for cases in in_queues(good_commands()):
        await bench.run(cases)


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(pace=[1.0, 0.4])
async def bad_commands_do_not(dut: Any, pace: float) -> None:
    """A bad one reads no more than it must, starts nothing, and the next one is good."""
    bench = await prepared(dut, pace)
    for bad in bad_commands():
        await bench.run([bad, Case(Opcode.MUL, k=4)])


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(pace=[1.0, 0.4])
async def errors_of_the_bus(dut: Any, pace: float) -> None:
    """An error at any stage ends the command with its status; the next one is good."""
    bench = await prepared(dut, pace)
    for stage in ("fetch", "header", "vectors", "run"):
        for flag in READ_ERRORS if stage != "run" else ERROR_STATUS:
            case = Case(Opcode.SQR, ERROR_STATUS[flag], fail=(flag, stage))
            await bench.run([Case(Opcode.MUL, k=4), case, Case(Opcode.SQR)])


@cocotb.test(timeout_time=200, timeout_unit="us")
async def self_test_fails(dut: Any) -> None:
    bench = await prepared(dut, 0.7)
    bad = Case(Opcode.SELFTEST, Status.SELFTEST_FAILED, mismatch=True)
    await bench.run([bad, Case(Opcode.SELFTEST)])


@cocotb.test(timeout_time=200, timeout_unit="us")
async def the_modulus_stays(dut: Any) -> None:
    """It is not loaded again right after a command that named it and ended well."""
    bench = await prepared(dut, 0.7)
    same = Case(Opcode.MUL)
    other = Case(Opcode.SQR, k=4)
    failed = Case(Opcode.SQR, Status.READ_ERROR, fail=("read_axi_error", "run"))
    stride = Case(Opcode.SQR, Status.BAD_STRIDE, fields={"stride_a": 5})
    await bench.run([same, same, Case(Opcode.POW), other, same, Case(Opcode.NOP), same])
    await bench.run([same, Case(Opcode.CLEAR), same, stride, same])
    await bench.run([same, failed, same, same])


@cocotb.test(timeout_time=200, timeout_unit="us")
async def queue(dut: Any) -> None:
    """HEAD past 16 bits, TAIL read again after each command, nothing to do."""
    bench = await prepared(dut, 1.0)
    await bench.run([])
    bench.head = 0xFFFD
    dut.head_q.value = bench.head
    await bench.run([Case(Opcode.NOP) for _ in range(QUEUE_SIZE)])
    await bench.start((bench.head + 1) & 0xFFFF)
    bench.put(tail_i=(bench.head + 3) & 0xFFFF)
    for _ in range(3):
        assert not bench.get("done_o")
        await bench.serve(Case(Opcode.TO_MONT))
    assert bench.get("done_o")


@pytest.mark.parametrize("name", ["small", pytest.param("wide", marks=pytest.mark.full)])
def test_residue_commands(name: str) -> None:
    card = CARDS[name]
    run_bench(
        "residue_commands",
        __file__,
        environment={"CARD": name},
        parameters={
            "WordBits": card.word_bits,
            "Karatsuba": int(card.karatsuba),
            "Elements": card.elements,
            "Rings": RINGS,
            "MaxWords": card.max_words,
            "Contexts": card.contexts,
            "TableEntries": card.table_entries,
            "MaxExponentBits": card.max_exponent_bits,
            "EmitResults": EMIT_RESULTS,
            "RowBits": 10,
        },
    )
