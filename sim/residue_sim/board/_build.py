"""The Verilated card as a shared library, cached by content."""

from __future__ import annotations

from pathlib import Path

from residue_sim._verilator import build_model
from residue_sim.manifest import Configuration, sources_for

__all__ = ["card_library", "card_parameters"]

_TOP = "residue_card"
_CPP = Path(__file__).resolve().parents[2] / "cpp"


def card_parameters(configuration: Configuration) -> dict[str, int]:
    """Parameters of `residue_card` for a named configuration."""
    return {
        "DigitBits": configuration.digit_bits,
        "Elements": configuration.elements,
        "Rings": configuration.rings,
        "Contexts": configuration.contexts,
        "MaxModulusBits": configuration.max_modulus_bits,
        "MaxExponentBits": configuration.max_exponent_bits,
        "AxiDataBits": configuration.axi_data_bits,
        "TableEntries": configuration.table_entries,
    }


def card_library(configuration: Configuration, *, trace: bool = False) -> Path:
    """Build the card and its memory model; path of the shared library.

    Args:
        configuration: which card.
        trace: with the means to write a waveform (slower, a build of its own).

    Raises:
        VerilatorError: Verilator or the compiler failed.
    """
    arguments = ["-CFLAGS", "-fPIC", "-MAKEFLAGS", "LDLIBS='-shared -pthread'"]
    if trace:
        # Verilator's FST writer wants lz4 and zlib; fst/ stands in for both.
        arguments += ["--trace-fst", "-CFLAGS", f"-I{_CPP / 'fst'}"]
    return build_model(
        _TOP,
        sources_for(_TOP),
        [_CPP / "card.cpp"],
        parameters=card_parameters(configuration),
        arguments=arguments,
        optimise="-O3",
    )
