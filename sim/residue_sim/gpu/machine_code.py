"""What products and squares take in NVRTC's code: ``python -m`` this module.

NVIDIA does not document its encodings. That the low 12 bits of an instruction of 16 bytes are its
operation, 0x225 a multiply-add of 32 by 32 to 64 bits and 0x94d the end of a thread, is what its
disassembler shows for compute capabilities 7.0 to 9.0.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np

from residue.backends._gpu_build import (
    Shape,
    compile_kernels,
    kernel_resources,
    kernel_source,
    shape_for,
)
from residue.backends._gpu_plans import modulus_block
from residue_sim.gpu import ptx

__all__ = ["ProductLoop", "Run", "executed", "product_loop", "square_multiplies"]

_WIDE, _EXIT = 0x225, 0x94D
_SQUARE = """
KERNEL one_square(u32 *out, const u32 *a, const u32 *block, i64 count) {
  FOR_EACH_NUMBER(i) store_number(out + i * L, square(load_number(a + i * L), load_modulus(block)));
}
"""


@dataclass(frozen=True)
class ProductLoop:
    """The loop of `mul`, unrolled over the limbs of a thread.

    Attributes:
        wide: multiply-adds of 64 bits.
        instructions: from the first of them to the last.
    """

    wide: int
    instructions: int


def product_loop(shape: Shape, arch: str) -> ProductLoop:
    """Counts of the kernel `mul`; code behind its exit, for lanes that part, is left out."""
    places = _wide_places(compile_kernels(shape, arch), "mul")
    return ProductLoop(len(places), places[-1] - places[0] + 1)


def square_multiplies(shape: Shape, arch: str) -> int:
    """64-bit multiply-adds in the code of a square: its turns, squares of blocks and steps."""
    code = compile_kernels(shape, arch, source=kernel_source() + _SQUARE)
    return len(_wide_places(code, "one_square"))


def _wide_places(elf: bytes, kernel: str) -> list[int]:
    code = _section(elf, f".text.{kernel}")
    operations = [at[0] & 0xFFF for at in struct.iter_unpack("<QQ", code)]
    end = len(operations) - 1 - operations[::-1].index(_EXIT)
    return [i for i, operation in enumerate(operations[:end]) if operation == _WIDE]


@dataclass(frozen=True)
class Run:
    """What a warp runs for one number in each of its groups.

    Attributes:
        multiplies: halves of multiply-adds, two to a 64-bit one.
        exchanges: shuffles.
        instructions: all that PTX has, loads and stores included.
    """

    multiplies: int
    exchanges: int
    instructions: int


@cache
def executed(shape: Shape) -> dict[str, Run]:
    """Of the kernel `mul`, and of one that squares: PTX, interpreted."""
    text = compile_kernels(shape, "sm_70", source=kernel_source() + _SQUARE, ptx=True)
    programs = ptx.parse(text.rstrip(b"\0").decode())
    block = modulus_block(shape, (1 << (32 * shape.words)) - 1)
    groups, base = 32 // shape.threads, 1 << 20
    out, a = base, base + 4 * shape.words * groups
    at = a + 4 * shape.words * groups
    words = np.concatenate([np.zeros(2 * shape.words * groups, np.uint32), block])

    def memory(address: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint32]], int, int]:
        return words, base, 0

    arguments = {
        "mul": (out, 1, a, 1, a, 1, at, groups),
        "one_square": (out, a, at, groups),
    }
    runs = {}
    for name, values in arguments.items():
        counts: Counter[str] = Counter()
        ptx.run(programs[name], 1, 32, values, memory, counts)

        def of(*kinds: str, counts: Counter[str] = counts) -> int:
            return sum(n for opcode, n in counts.items() if opcode.startswith(kinds))

        runs[name] = Run(of("mad.lo.cc", "madc.lo", "madc.hi"), of("shfl"), counts.total())
    return runs


def _section(elf: bytes, name: str) -> bytes:
    """Bytes of a section of a little-endian ELF file of 64 bits."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    count, names = struct.unpack_from("<HH", elf, 60)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + 64 * i) for i in range(count)]
    for label, _, _, _, start, size in headers:
        at = headers[names][4] + label
        if elf[at : elf.index(b"\0", at)].decode() == name:
            return elf[start : start + size]
    raise ValueError(f"the machine code has no section {name}")


def _main() -> None:
    print("bits threads limbs arch registers wide/step instructions/step")
    for bits in (512, 1024, 2048, 3072, 4096, 6144):
        shape = shape_for(bits)
        for arch in ("sm_70", "sm_80", "sm_90"):
            loop, registers = product_loop(shape, arch), kernel_resources(shape, arch)["mul"]
            wide, instructions = loop.wide / shape.limbs, loop.instructions / shape.limbs
            print(
                f"{bits:4} {shape.threads:7} {shape.limbs:5} {arch} {registers.registers:9} "
                f"{wide:9.1f} {instructions:17.1f}"
            )
    print("bits kernel multiply-adds(64 bits) exchanges instructions(PTX)")
    for bits in (512, 1024, 1536, 2048, 3072, 4096, 6144, 8192):
        for name, run in executed(shape_for(bits)).items():
            print(
                f"{bits:4} {name:10} {run.multiplies / 2:10.0f} {run.exchanges:9} "
                f"{run.instructions:8}"
            )


if __name__ == "__main__":
    _main()
