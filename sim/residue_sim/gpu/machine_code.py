"""What NVRTC's machine code has in the loop of the Montgomery product: ``python -m`` this module.

NVIDIA does not document its encodings. That the low 12 bits of an instruction of 16 bytes are its
operation, 0x225 a multiply-add of 32 by 32 to 64 bits and 0x94d the end of a thread, is what its
disassembler shows for compute capabilities 7.0 to 9.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from residue.backends._gpu_build import Shape, compile_kernels, kernel_resources, shape_for

__all__ = ["ProductLoop", "product_loop"]

_WIDE, _EXIT = 0x225, 0x94D


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
    code = _section(compile_kernels(shape, arch), ".text.mul")
    operations = [at[0] & 0xFFF for at in struct.iter_unpack("<QQ", code)]
    end = len(operations) - 1 - operations[::-1].index(_EXIT)
    places = [i for i, operation in enumerate(operations[:end]) if operation == _WIDE]
    return ProductLoop(len(places), places[-1] - places[0] + 1)


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


if __name__ == "__main__":
    _main()
