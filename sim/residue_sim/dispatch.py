"""What the command processor does with a good command before the lanes start, for their benches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from residue.card import _abi as abi
from residue.card._abi import CommandFlag, ModulusVector, Opcode
from residue_sim.card_model import RESERVED_ENTRIES, Command
from residue_sim.job import pack_job, pack_share
from residue_sim.manifest import Configuration

__all__ = ["EMIT_RESULTS", "Dispatch", "ModulusRows"]

EMIT_RESULTS = 16
"""Results of the largest modulus that an emit queue holds."""

_ROW = 16
_POW_ENTRIES = 16
_FIXED = (Opcode.POW_FIXED, Opcode.MULTI_POW)
_ACC, _TAB, _MOD, _N = 0, 1, 3, 5  # stores


@dataclass(frozen=True)
class ModulusRows:
    """Rows of the modulus block that every lane gets."""

    address: int
    rows: int
    store: int
    row: int


@dataclass(frozen=True)
class Dispatch:
    """A checked command as the lanes of a card see it.

    Attributes:
        command: the command.
        k: digits of its modulus.
        configuration: the card's.
    """

    command: Command
    k: int
    configuration: Configuration

    @property
    def group(self) -> int:
        """Elements of a group at most."""
        c = self.configuration
        size = self._class_digits
        most = c.contexts if size < c.max_words else c.contexts // 2
        if self.command.opcode == Opcode.POW:
            entries = c.table_entries * (c.max_words // 2) // (size // 2)
            most = min(most, (entries - RESERVED_ENTRIES) // _POW_ENTRIES)
        return most

    @property
    def job(self) -> int:
        """The `job_t` of all lanes."""
        command, c = self.command, self.configuration
        words = self.k // c.digits_per_word
        is_pow, fixed = command.opcode == Opcode.POW, command.opcode in _FIXED
        bits = command.length * (command.window if fixed else 1) if fixed or is_pow else 0
        windowed = fixed or is_pow or command.opcode == Opcode.TABLE
        return pack_job(
            opcode=command.opcode,
            window_log2=command.window.bit_length() - 1 if windowed else 0,
            init_from_a=fixed and bool(command.flags & CommandFlag.INIT_FROM_A),
            count=self._count,
            length=-(-command.length // 4) if is_pow else command.length,
            table_addr=command.src_b,
            stride_a=command.stride_a // _ROW,
            stride_b=command.stride_b // _ROW,
            stride_e=command.stride_e // _ROW,
            stride_dst=command.stride_dst // _ROW,
            k=self.k,
            words=words,
            rows=self.k // 2,
            slots=max(words, c.elements) + 1,
            passes=-(-words // c.elements),
            exp_rows=-(-bits // 128),
            cap=self.group,
            emit_cap=EMIT_RESULTS * (c.max_words // 2) // (self._class_digits // 2),
            per_element=self._per_element,
        )

    def share(self, ring: int) -> int:
        """The `lane_job_t` of a lane."""
        command, rings = self.command, self.configuration.rings
        if command.opcode == Opcode.SELFTEST:
            return pack_share(count=self.group)
        each, rest = divmod(command.count, rings)
        first = ring * each + min(ring, rest)
        gathers = command.opcode == Opcode.PROD
        results = 1 << command.window if command.opcode == Opcode.TABLE else 1
        src_b = command.modulus if self._per_element else command.src_b
        return pack_share(
            first=first,
            count=each + (ring < rest),
            src_a=command.src_a + (0 if gathers else first * command.stride_a),
            src_b=src_b + first * command.stride_b,
            exponents=command.exponents + (0 if gathers else first * command.stride_e),
            dst=command.dst + first * results * command.stride_dst,
        )

    def n0inv(self, read: Callable[[int, int], bytes]) -> int:
        """What the storer needs of the header of the modulus block, read from memory."""
        return int.from_bytes(read(self.command.modulus + 8, 8), "little")

    def modulus(self) -> list[ModulusRows]:
        """What is read of the modulus block, in order."""
        rows = self.k // 2
        return [
            ModulusRows(
                self.command.modulus + 8 * (abi.MODULUS_HEADER_WORDS + vector * self.k),
                rows,
                store,
                entry * rows,
            )
            for vector, store, entry in (
                (ModulusVector.M, _MOD, 0),
                (ModulusVector.N, _N, 0),
                (ModulusVector.R2, _TAB, 0),
                (ModulusVector.ONE, _TAB, 1),
                (ModulusVector.ONE, _ACC, 0),
                (ModulusVector.RADIX, _TAB, 2),
            )
        ]

    @property
    def _class_digits(self) -> int:
        """Digits that stores are cut for: half the largest modulus, or the largest."""
        largest = self.configuration.max_words
        half = 2 * ((largest + 3) // 4)
        return half if self.k <= half else largest

    @property
    def _count(self) -> int:
        return self.group if self.command.opcode == Opcode.SELFTEST else self.command.count

    @property
    def _per_element(self) -> bool:
        flag = self.command.flags & CommandFlag.MODULUS_PER_ELEMENT
        return self.command.opcode == Opcode.POW and bool(flag)
