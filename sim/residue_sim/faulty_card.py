"""A functional model of a card whose commands stall, fail or compute nonsense, for tests."""

from __future__ import annotations

import contextlib

import numpy as np

from residue.card import _abi as abi
from residue.card._abi import Opcode, Register, Status
from residue_sim.card_model import CardModel, Command, Memory
from residue_sim.manifest import Configuration

__all__ = ["FaultyCard"]


class _StallError(Exception):
    """The card stops in the middle of a command."""


class FaultyCard(CardModel):
    """A card whose commands can go wrong.

    Attributes:
        stalls: number of an executed command -> how often it stalls before it works.
        refuse: opcode -> status that the next such command completes with, once.
        broken: opcode -> status that every such command completes with.
        flip: opcodes whose first result gets a wrong bit.
        blank: opcodes whose first result becomes zero.
        endless: opcode -> how often such a command never ends, while the counters run on.
        executed: commands executed so far.
    """

    def __init__(self, configuration: Configuration, memory: Memory) -> None:
        self.stalls: dict[int, int] = {}
        self.refuse: dict[Opcode, Status] = {}
        self.broken: dict[Opcode, Status] = {}
        self.flip: set[Opcode] = set()
        self.blank: set[Opcode] = set()
        self.endless: dict[Opcode, int] = {}
        self._lost = False  # in a command that never ends
        self.executed: list[Opcode] = []
        super().__init__(configuration, memory)

    def read32(self, offset: int) -> int:
        """Value of a register; a card that is lost in a command counts on and on."""
        if self._lost and offset == Register.CYCLES_LO:
            self.counters["CYCLES"] += 100_000_000
            self.counters["READ_BYTES"] += 16
        return super().read32(offset)

    def write32(self, offset: int, value: int) -> None:
        """Write a register; a soft reset ends everything."""
        if offset == Register.SOFT_RESET:
            self._lost = False
        super().write32(offset, value)

    def run(self) -> None:
        """Work off the queue, up to a stall."""
        with contextlib.suppress(_StallError):
            super().run()

    def complete(self, command: Command) -> bytes:
        """Execute one command, or what stands for it; its completion record."""
        number = len(self.executed)
        if self.stalls.get(number):
            self.stalls[number] -= 1
            raise _StallError
        opcode = Opcode(command.opcode)
        if self.endless.get(opcode):
            self.endless[opcode] -= 1
            self._lost = True
            raise _StallError
        self.executed.append(opcode)
        if opcode in self.refuse or opcode in self.broken:
            record = np.zeros(1, abi.COMPLETION_DTYPE)
            record["status"] = self.refuse.pop(opcode, None) or self.broken[opcode]
            record["tag"] = command.tag
            return record.tobytes()
        done = super().complete(command)
        if opcode in self.flip:
            word = self.memory.read(command.dst, 8)
            self.memory.write(command.dst, bytes([word[0] ^ 1]) + word[1:])
        if opcode in self.blank:
            words = int.from_bytes(self.memory.read(command.modulus, 8), "little")
            self.memory.write(command.dst, bytes(8 * words))
        return done
