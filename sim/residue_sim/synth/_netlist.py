"""From SystemVerilog to a mapped netlist, with open tools: slang and Yosys.

slang (the plug-in of the Yosys wheel) reads the whole card, which Yosys' own front end cannot. It
gives every instance a module of its own; modules that are equal word for word are made one again,
so equal lanes and elements are synthesised once and counted as often as they occur. Blocks (the
modules of the engine and the card, the ring, its elements and the exit unit) keep their borders,
so nothing is optimised across them: a count is a little higher than a flat one would be, and it
can be attributed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residue_sim._verilator import cache_dir, cached_build, content_key
from residue_sim._yosys import YosysError, run_yosys, yosys_share, yosys_version
from residue_sim.manifest import source_files, sources_for

__all__ = [
    "SynthesisError",
    "Target",
    "declaration",
    "share_equal_modules",
    "synthesise",
]

Netlist = dict[str, dict[str, Any]]
"""Modules of a Yosys JSON netlist by name."""

# Blocks of the arithmetic; those of engine and card are all but the parts below.
_ARITHMETIC = ("residue_ring", "residue_pe", "residue_pe_karatsuba", "residue_canonical")
_PARTS = ("residue_ram", "residue_fifo", "residue_regs_block", "residue_regs_counters")
# A top that only holds an instance of each block.
_ROOTS = "roots"
# Shift chains that slang hands over as memories.
_CHAINS = ("residue_delay", "residue_normalise", "residue_join", "residue_regs_counters")


class SynthesisError(YosysError):
    """What Yosys wrote cannot be used, or place and route failed; the message says why."""


@dataclass(frozen=True)
class Target:
    """What is synthesised for.

    Attributes:
        family: of `synth_xilinx`: xcup (UltraScale+) or xc7 (7-series).
        dsp: the DSP primitive.
        ram_macros: which stores are to lie in UltraRAM.
    """

    family: str
    dsp: str
    ram_macros: tuple[str, ...] = ()

    @property
    def macros(self) -> list[str]:
        """Macros that choose this target in the RTL."""
        return ["SYNTHESIS", f"RESIDUE_{self.dsp}", *self.ram_macros]


def synthesise(
    top: str,
    parameters: Mapping[str, int],
    target: Target,
    *,
    progress: Callable[[str], None] = lambda what: None,
) -> Netlist:
    """The mapped netlist of a module, by block.

    Blocks are cached by their content, so those that boards share, and those that an edit left
    alone, are not synthesised again; the others are, in one run of Yosys.

    Args:
        top: the module.
        parameters: its parameters.
        target: what for.
        progress: called with a line that says what is done next.

    Raises:
        YosysError: Yosys failed.
    """
    progress("reading the RTL")
    modules = _read(top, parameters, target)
    blocks = _blocks(modules, f"\\{top}")
    kept = {block: _cached(block, modules, target) for block in blocks}
    missing = [block for block, path in kept.items() if not path.is_file()]
    if missing:
        names = ", ".join(_plain(block) for block in missing)
        progress(f"synthesising {len(missing)} of {len(blocks)} blocks: {names}")
        found = _map(missing, modules, target)
        for block in missing:
            with tempfile.NamedTemporaryFile("w", dir=kept[block].parent, delete=False) as file:
                json.dump({_plain(block): found[_plain(block)]}, file)
            Path(file.name).replace(kept[block])
    netlist: Netlist = {}
    for path in kept.values():
        netlist |= json.loads(path.read_text())
    return netlist


def _read(top: str, parameters: Mapping[str, int], target: Target) -> dict[str, str]:
    """RTLIL of the modules below `top`, equal ones shared, by name."""
    sources = sources_for(top)
    script = [
        " ".join(
            [
                "read_slang --threads 1 --best-effort-hierarchy --allow-use-before-declare",
                f"--blackboxed-module {target.dsp} --top {top}",
                *(f"-G {name}={value}" for name, value in sorted(parameters.items())),
                *(f"-D {macro}" for macro in target.macros),
                f"{target.dsp}.v",
                *(source.name for source in sources),
            ]
        ),
        "write_rtlil read.il",
    ]

    def build(folder: Path) -> None:
        for source in sources:
            (folder / source.name).write_bytes(source.read_bytes())
        (folder / f"{target.dsp}.v").write_text(
            declaration(target.dsp, "xilinx/cells_xtra.v", "xilinx/cells_sim.v")
        )
        run_yosys(script, folder, folder / "read.il")

    folder = cached_build(f"slang-{top}", content_key(sources, script), build)
    return share_equal_modules((folder / "read.il").read_text())


def _cached(block: str, modules: Mapping[str, str], target: Target) -> Path:
    """Where the netlist of a block lies, or will lie."""
    key = [
        yosys_version(),
        repr(_script([], [], target)),
        *_texts([block], block, modules).values(),
    ]
    folder = cache_dir() / "synth-blocks"
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:20]
    return folder / f"{_base(block)}-{digest}.json"


def _texts(full: Sequence[str], top: str, modules: Mapping[str, str]) -> dict[str, str]:
    """RTLIL of the modules below `top`: the blocks of `full` whole, other blocks as black boxes."""
    texts: dict[str, str] = {}

    def take(name: str) -> None:
        if name in texts or name not in modules:
            return
        inside = name in full or not _is_block(name)
        texts[name] = modules[name] if inside else _black_box(modules[name])
        for kind, _ in _CELL.findall(texts[name]):
            take(kind)

    take(top)
    return texts


def _map(blocks: Sequence[str], modules: Mapping[str, str], target: Target) -> Netlist:
    """The netlists of some blocks."""
    texts: dict[str, str] = {}
    for block in blocks:
        texts |= _texts(blocks, block, modules)
    chains = [_plain(name) for name in texts if _base(name) in _CHAINS]
    script = _script([_plain(block) for block in blocks], chains, target)
    cells = (f"attribute \\keep 1\ncell {block} \\u{i}\nend\n" for i, block in enumerate(blocks))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rtlil = [*texts.values(), f"module \\{_ROOTS}\n", *cells, "end\n"]
        (folder / "blocks.il").write_text("".join(rtlil))
        run_yosys(script, folder, folder / "netlist.json")
        found: Netlist = json.loads((folder / "netlist.json").read_text())["modules"]
    return found


def _script(blocks: Sequence[str], chains: Sequence[str], target: Target) -> list[str]:
    flow = f"synth_xilinx -top {_ROOTS} -family {target.family} -flatten -noiopad -noclkbuf"
    return [
        "read_rtlil blocks.il",
        f"{flow} -run begin:prepare",
        *(f"setattr -mod -set keep_hierarchy 1 {block}" for block in blocks),
        *(f"memory_map {chain}" for chain in chains),
        f"{flow} -run prepare:check",
        f"select {' '.join(blocks)}",
        "write_json -selected netlist.json",
    ]


def _blocks(modules: Mapping[str, str], top: str) -> list[str]:
    """The blocks at and below a module, lowest first."""
    found: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in modules:
            return
        seen.add(name)
        for kind, _ in _CELL.findall(modules[name]):
            visit(kind)
        if name == top or _is_block(name):
            found.append(name)

    visit(top)
    return found


def _plain(name: str) -> str:
    """A module's name without RTLIL's backslash."""
    return name.removeprefix("\\")


def _base(name: str) -> str:
    """The source's name of a module."""
    return _plain(name).partition("$")[0]


def _is_block(name: str) -> bool:
    return _base(name) in _block_names()


@functools.cache
def _block_names() -> frozenset[str]:
    areas = {path.stem for path in source_files("engine", "card")}
    return frozenset({*_ARITHMETIC, *areas} - set(_PARTS))


def _black_box(rtlil: str) -> str:
    """A module with its ports alone."""
    header = re.search(r"^module \S+\n", rtlil, re.M)
    ports = re.findall(r"^  wire [^\n]*\b(?:input|output) \d+ \S+\n", rtlil, re.M)
    if header is None:
        raise SynthesisError("a module without a header in the RTLIL that slang wrote")
    return f"attribute \\blackbox 1\n{header[0]}{''.join(ports)}end\n"


def declaration(name: str, *libraries: str) -> str:
    """Yosys' own declaration of a primitive, from the first of its libraries that has it.

    Raises:
        SynthesisError: none has it.
    """
    for library in libraries:
        text = yosys_share(library)
        if found := re.search(rf"^(module {name}\b.*?\);)(.*?)^endmodule", text, re.M | re.S):
            # Ports and parameters without the model behind them.
            lines = re.findall(r"^ *(?:parameter|input|output)\b[^\n]*;$", found[2], re.M)
            return "\n".join(["(* blackbox *)", found[1], *lines, "endmodule", ""])
    raise SynthesisError(f"the libraries of Yosys have no {name}")


_MODULE = re.compile(r"(?:^attribute [^\n]*\n)*^module (\S+)\n.*?^end\n", re.M | re.S)
_CELL = re.compile(r"^  cell (\S+) (\S+)$", re.M)
_GENERATED = re.compile(r"(?<!\S)\$\S+")
_SOURCE = re.compile(r"^ *attribute \\(?:src|top) [^\n]*\n", re.M)


def share_equal_modules(rtlil: str) -> dict[str, str]:
    r"""Modules of RTLIL by name, those equal but for their names as one; no black boxes.

    `\name$path` becomes `\name`, and `\name$1` and so on where modules of one name differ.
    """
    text = {found[1]: _renumbered(found[0]) for found in _MODULE.finditer(rtlil)}
    boxes = {name for name, body in text.items() if "\nattribute \\blackbox 1\n" in f"\n{body}"}
    shared: dict[str, str] = {}  # name before: name after
    digests: dict[bytes, str] = {}  # of the body: name after
    result: dict[str, str] = {}

    def visit(name: str) -> None:
        if name in shared or name in boxes or name not in text:
            return
        for kind, _ in _CELL.findall(text[name]):
            visit(kind)
        body = _CELL.sub(lambda m: f"  cell {shared.get(m[1], m[1])} {m[2]}", text[name])
        header = f"module {name}\n"
        digest = hashlib.sha256(body.replace(header, "", 1).encode()).digest()
        if digest not in digests:
            base = name.partition("$")[0]
            same = sum(other.partition("$")[0] == base for other in result)
            digests[digest] = f"{base}${same}" if same else base
            result[digests[digest]] = body.replace(header, f"module {digests[digest]}\n", 1)
        shared[name] = digests[digest]

    for name in text:
        visit(name)
    return result


def _renumbered(module: str) -> str:
    """A module without source lines, the numbers in its generated names counted from 0 on."""
    numbers: dict[str, str] = {}

    def renumber(name: re.Match[str]) -> str:
        return re.sub(r"(?<=\$)\d+", lambda n: numbers.setdefault(n[0], str(len(numbers))), name[0])

    return _GENERATED.sub(renumber, _SOURCE.sub("", module))
