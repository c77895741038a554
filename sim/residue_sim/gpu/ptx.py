"""A warp that runs PTX: what NVRTC makes of the kernels, inline assembly and shuffles included.

An interpreter for the part of PTX ISA 8.8 that the kernels of the GPU backend compile to; anything
else is a `KernelFault`. 32 lanes are numpy arrays. Of lanes that have gone different ways those
furthest behind go first, so that they meet again; an exchange that not all lanes reach is a fault,
as are accesses outside the device's memory and a carry that crosses a branch.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_sim.gpu._fault import KernelFault

__all__ = ["Program", "parse", "run"]

Lanes = NDArray[Any]
Memory = Callable[[int], tuple[NDArray[np.uint32], int, int]]
"""address -> the allocation that has it: 32-bit words, address of the first, a number for it."""

_WARP = 32
_COMPARE: dict[str, Callable[..., Lanes]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_BITWISE: dict[str, Callable[..., Lanes]] = {
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@dataclass
class Program:
    """One kernel: instructions, and where its labels are."""

    code: list[tuple[str | None, str, list[str]]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> dict[str, Program]:
    """Kernels by name."""
    text = re.sub(r"//[^\n]*", "", text)
    programs = {}
    for name, body in re.findall(r"\.entry (\w+)\([^)]*\)[^{]*\{(.*?)\n\}", text, re.S):
        program, carries = Program(), False
        for label, guard, opcode, operands in re.findall(
            r"(?:(\$\w+):)|(?:@(!?%p\d+)\s+)?([a-z][\w.]*)(?:\s+([^;]*))?;|\.[a-z]+[^;]*;", body
        ):
            if label:
                program.labels[label] = len(program.code)
            if not opcode:
                carries = carries and not label
                continue
            uses = opcode.startswith(("addc", "subc", "madc"))
            if uses and not carries:
                raise KernelFault(f"{name}: a carry of {opcode} comes from beyond a branch")
            carries = (carries or ".cc" in opcode) and opcode.split(".")[0] != "bra"
            program.code.append((guard or None, opcode, re.split(r"[\s,|]+", operands.strip())))
        programs[name] = program
    return programs


def run(
    program: Program,
    blocks: int,
    threads: int,
    arguments: tuple[int, ...],
    memory: Memory,
    counts: Counter[str] | None = None,
) -> bytes:
    """Launch the kernel, its warps one after the other.

    Args:
        program: it.
        blocks, threads: how many, and of how many threads each.
        arguments: 64 bits each.
        memory: the device's.
        counts: gets how often each operation was run by a warp.

    Returns:
        a digest of what an observer could see: which instructions were run, by which lanes, and
        which words were accessed.
    """
    seen = hashlib.blake2b()
    for block in range(blocks):
        for first in range(0, threads, _WARP):
            _Warp(program, (block, blocks, threads, first), arguments, memory, seen).run(counts)
    return seen.digest()


class _Warp:
    def __init__(
        self,
        program: Program,
        place: tuple[int, int, int, int],
        arguments: tuple[int, ...],
        memory: Memory,
        seen: hashlib.blake2b,
    ) -> None:
        block, blocks, threads, first = place
        self._program = program
        self._arguments = arguments
        self._memory = memory
        self._seen = seen
        self._lane = np.arange(_WARP, dtype=np.uint32)
        self._registers: dict[str, Lanes] = {
            "%tid.x": self._lane + np.uint32(first),
            "%ntid.x": _same(threads, np.uint32),
            "%ctaid.x": _same(block, np.uint32),
            "%nctaid.x": _same(blocks, np.uint32),
        }
        self._carry = np.zeros(_WARP, np.uint64)
        self._at = np.zeros(_WARP, np.int64)  # next instruction of each lane
        self._active = np.ones(_WARP, bool)

    def run(self, counts: Counter[str] | None) -> None:
        """Until all lanes have returned."""
        code, end = self._program.code, len(self._program.code)
        while (at := int(self._at.min())) < end:
            self._active = self._at == at
            self._seen.update(at.to_bytes(4, "little") + self._active.tobytes())
            guard, opcode, operands = code[at]
            if counts is not None:
                counts[opcode] += 1
            taken = self._active
            if guard:
                holds = self._registers[guard.lstrip("!")]
                taken = taken & (~holds if guard[0] == "!" else holds)
            kind, *modes = opcode.split(".")
            if kind == "bra":
                self._at[self._active] += 1
                self._at[taken] = self._program.labels[operands[0]]
            elif kind == "ret":
                self._at[self._active] += 1
                self._at[taken] = end
            elif guard:
                raise KernelFault(f"{opcode} under a condition is not known here")
            else:
                self._step(kind, modes, operands)
                self._at[self._active] += 1

    def _step(self, kind: str, modes: list[str], operands: list[str]) -> None:
        target, *sources = operands
        if kind == "st":
            value = self._value(sources[0], "u32")
            for words, lanes, places in self._places(self._address(target), 4):
                words[places] = value[lanes]
        elif kind == "ld":
            self._load(modes, target, sources[0])
        elif kind == "shfl":
            self._shuffle(modes[1], target, sources[1:])
        elif kind == "vote":
            self._vote(modes[1], target, sources)
        elif modes[-1] == "pred":
            values = [self._registers[name] for name in sources]
            result = ~values[0] if kind == "not" else _BITWISE[kind](*values)
            self._assign(target, result)
        elif kind == "setp":
            compare, dtype = modes
            self._assign(target, _COMPARE[compare](*self._values(sources, dtype)))
        elif kind == "selp":
            one, other = self._values(sources[:2], modes[0])
            self._assign(target, np.where(self._registers[sources[2]], one, other))
        elif "cc" in modes or kind in ("addc", "subc", "madc"):
            self._assign(target, self._chained(kind, modes, sources))
        else:
            self._assign(target, self._computed(kind, modes, sources))

    # ----------------------------------------------------------------------------------- arithmetic

    def _chained(self, kind: str, modes: list[str], sources: list[str]) -> Lanes:
        values = [value.astype(np.uint64) for value in self._values(sources, "u32")]
        carry = self._carry if kind.endswith("c") else np.uint64(0)
        if kind in ("mad", "madc"):
            product = values[0] * values[1]
            half = product >> np.uint64(32) if modes[0] == "hi" else product & np.uint64(0xFFFFFFFF)
            total = half + values[2] + carry
        elif kind in ("sub", "subc"):
            total = values[0] - values[1] - carry
        else:
            total = values[0] + values[1] + carry
        if "cc" in modes:
            flag = total >> np.uint64(32) & np.uint64(1)
            self._carry = np.where(self._active, flag, self._carry)
        return (total & np.uint64(0xFFFFFFFF)).astype(np.uint32)

    def _computed(self, kind: str, modes: list[str], sources: list[str]) -> Lanes:
        dtype = modes[-1]
        if kind == "cvta":
            return self._value(sources[0], "u64")
        if kind == "cvt":
            return self._value(sources[0], dtype).astype(_dtype(modes[0]))
        if kind in ("shl", "shr"):
            value, by = self._value(sources[0], dtype), self._value(sources[1], "u32")
            bits = 8 * value.dtype.itemsize
            within = np.minimum(by, bits - 1).astype(value.dtype)
            shifted = value << within if kind == "shl" else value >> within
            return shifted if dtype[0] == "s" else np.where(by < bits, shifted, 0)
        values = self._values(sources, dtype)
        if kind == "mov":
            return values[0]
        if kind == "not":
            return ~values[0]
        if kind == "neg":
            return -values[0]
        if kind in _BITWISE:
            return _BITWISE[kind](*values)
        if kind in ("add", "sub"):
            return values[0] + values[1] if kind == "add" else values[0] - values[1]
        if kind == "mul" and modes[0] == "wide":
            wide = _dtype(dtype[0] + "64")
            product: Lanes = values[0].astype(wide) * values[1].astype(wide)
            return product
        if kind in ("mul", "mad") and modes[0] == "lo":
            return values[0] * values[1] + (values[2] if kind == "mad" else 0)
        if kind in ("div", "rem") and (values[1][self._active] != 0).all():
            divisor = np.where(values[1] == 0, 1, values[1])
            quotient = np.abs(values[0]) // np.abs(divisor)
            quotient = np.where((values[0] < 0) != (divisor < 0), -quotient, quotient)
            remainder: Lanes = values[0] - quotient * divisor
            return quotient if kind == "div" else remainder
        raise KernelFault(f"{kind}.{'.'.join(modes)} is not known here")

    # ------------------------------------------------------------------------------------- exchange

    def _meet(self, what: str, members: str) -> None:
        if not self._active.all() or (self._value(members, "u32") != 0xFFFFFFFF).any():
            raise KernelFault(f"{what} without all lanes of the warp")

    def _shuffle(self, mode: str, target: str, sources: list[str]) -> None:
        self._meet("shfl", sources[3])
        value, by, clamp = self._values(sources[:3], "s32")
        by, segment, lane = by & 31, clamp >> 8 & 31, self._lane.astype(np.int32)
        most = lane & segment | clamp & 31 & ~segment
        if mode == "up":
            source = lane - by
            there = source >= most
        else:
            source = lane + by if mode == "down" else lane & segment | by & ~segment
            there = source <= most
        self._assign(target, value[np.where(there, source, lane)])

    def _vote(self, mode: str, target: str, sources: list[str]) -> None:
        self._meet("vote", sources[1])
        holds = self._registers[sources[0].lstrip("!")] ^ (sources[0][0] == "!")
        if mode == "ballot":
            ballot = int(np.packbits(holds, bitorder="little").view("<u4")[0])
            self._assign(target, _same(ballot, np.uint32))
        elif mode == "any":
            self._assign(target, _same(bool(holds.any()), np.bool_))
        else:
            raise KernelFault(f"vote.{mode} is not known here")

    # --------------------------------------------------------------------------------------- memory

    def _load(self, modes: list[str], target: str, source: str) -> None:
        if modes[0] == "param":
            number = int(source.strip("[]").rsplit("_", 1)[1])
            self._assign(target, _same(self._arguments[number] % (1 << 64), np.uint64))
            return
        size = 8 if modes[-1].endswith("64") else 4
        value = np.zeros(_WARP, f"<u{size}")
        for words, lanes, places in self._places(self._address(source), size):
            value[lanes] = words[places]
            if size == 8:
                value[lanes] |= words[places + 1].astype(np.uint64) << np.uint64(32)
        self._assign(target, value)

    def _address(self, operand: str) -> Lanes:
        name, _, offset = operand.strip("[]").partition("+")
        return self._registers[name].view(np.uint64) + np.uint64(int(offset or 0) % (1 << 64))

    def _places(
        self, address: Lanes, size: int
    ) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.intp], Lanes]]:
        """Allocations that the active lanes access: words, those lanes, the words they access."""
        left = np.flatnonzero(self._active)
        while len(left):
            words, base, number = self._memory(int(address[left[0]]))
            offset = address[left] - np.uint64(base)  # huge where it is below
            there = offset < words.nbytes
            if (offset[there] % np.uint64(size)).any():
                raise KernelFault("an access that is not aligned")
            places = (offset[there] // np.uint64(4)).astype(np.int64)
            self._seen.update(number.to_bytes(4, "little") + left[there].tobytes())
            self._seen.update(places.tobytes())
            yield words, left[there], places
            left = left[~there]

    # ------------------------------------------------------------------------------------ registers

    def _values(self, names: list[str], dtype: str) -> list[Lanes]:
        return [self._value(name, dtype) for name in names]

    def _value(self, name: str, dtype: str) -> Lanes:
        if name[0] == "%":
            value = self._registers[name]
            bits = int(dtype[1:])
            if 8 * value.dtype.itemsize != bits:  # cvt alone reads the low half of a register
                value = value.astype(np.uint64).astype(_dtype(f"u{bits}"))
            return value.view(_dtype(dtype))
        bits = int(dtype[1:])
        return _same(int(name, 0) % (1 << bits), _dtype(f"u{bits}")).view(_dtype(dtype))

    def _assign(self, name: str, value: Lanes) -> None:
        if value.dtype.kind == "i":
            value = value.view(_dtype(f"u{8 * value.dtype.itemsize}"))
        if not self._active.all():
            old = self._registers.get(name, np.zeros_like(value))
            value = np.where(self._active, value, old)
        self._registers[name] = value


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype({"u": "<u", "b": "<u", "s": "<i"}[name[0]] + {"32": "4", "64": "8"}[name[1:]])


def _same(value: int, dtype: type[np.generic] | np.dtype[Any]) -> Lanes:
    return np.full(_WARP, value, dtype)
