"""`residue board build`: scripts and RTL for a board, and the vendor tool's run over them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from residue_sim.board._build import card_parameters
from residue_sim.boards import _scripts
from residue_sim.boards._facts import Board, BoardError
from residue_sim.boards._wrapper import TOP, kernel_xml, wrapper
from residue_sim.manifest import sources_for

__all__ = [
    "Bundle",
    "Step",
    "ToolState",
    "build",
    "bundle",
    "find_tool",
    "licence_hint",
    "write_bundle",
]

_WRAPPER = f"{TOP}.v"
_STAMP = "inputs.json"
_VERSION = re.compile(r"v(\d{4}\.\d)")


@dataclass(frozen=True)
class Step:
    """One run of a vendor tool.

    Attributes:
        name: what it does.
        command: its command line, run in the bundle's folder.
        makes: files that are there when it is done.
    """

    name: str
    command: tuple[str, ...]
    makes: tuple[str, ...]


@dataclass(frozen=True)
class Bundle:
    """Everything that a vendor tool needs for a board.

    Attributes:
        board: the board.
        files: contents by path in the bundle's folder.
        steps: what is run over them, in order.
    """

    board: Board
    files: dict[str, str]
    steps: tuple[Step, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the contents, hexadecimal: results belong to it."""
        text = json.dumps(sorted(self.files.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def results(self) -> tuple[str, ...]:
        """What the last step makes: what a board loads."""
        return self.steps[-1].makes


@dataclass(frozen=True)
class ToolState:
    """Whether the vendor tools are here.

    Attributes:
        versions: of each tool that was found.
        missing: a line for each thing that is not as needed.
    """

    versions: dict[str, str]
    missing: tuple[str, ...]


def bundle(board: Board) -> Bundle:
    """The files and steps of a board.

    Raises:
        BoardError: the board is the virtual one, which needs no build, or cannot be connected.
    """
    if board.family == "virtual":
        raise BoardError(
            "the virtual board needs no vendor tool: residue board serve starts it, and residue "
            "board files writes its overlay"
        )
    rtl = {path.name: path.read_text(encoding="utf-8") for path in sources_for("residue_card")}
    # A packaged IP keeps no macros of its project: the files that ask for one get it themselves.
    macros = {"RESIDUE_DSP48": board.dsp_macro} | {macro: macro for macro in board.ram_macros}
    for mark, macro in macros.items():
        define = f"`define {macro}\n"
        rtl = {name: define + text if mark in text else text for name, text in rtl.items()}
    rtl[_WRAPPER] = wrapper(board.config, card_parameters(board.config))
    files = {f"rtl/{name}": text for name, text in rtl.items()}
    files["residue_card.xdc"] = _scripts.constraints(board)
    files["residue_card_ooc.xdc"] = _scripts.clock_constraint(board)
    vivado = ("vivado", "-mode", "batch", "-nojournal", "-notrace", "-source")
    steps: tuple[Step, ...]
    if board.family == "alveo":
        files["package_kernel.tcl"] = _scripts.package_kernel(board, list(rtl))
        files["kernel.xml"] = kernel_xml(board.config)
        files["link.cfg"] = _scripts.link_config(board)
        link = "v++ --link --target hw --config link.cfg --output"
        steps = (
            Step("pack the kernel", (*vivado, "package_kernel.tcl"), ("residue_card.xo",)),
            Step(
                "link and implement",
                (*link.split(), f"{board.name}.xclbin", "residue_card.xo"),
                (f"{board.name}.xclbin",),
            ),
        )
    else:
        files["package_ip.tcl"] = _scripts.package_ip(board, list(rtl))
        files["block_design.tcl"] = _scripts.block_design(board)
        steps = (
            Step("pack the IP", (*vivado, "package_ip.tcl"), ("work/ip/component.xml",)),
            Step(
                "implement the block design",
                (*vivado, "block_design.tcl"),
                (f"{board.name}.bit", f"{board.name}.hwh"),
            ),
        )
    return Bundle(board, files, steps)


def find_tool(board: Board) -> ToolState:
    """Look for the vendor's tools: presence, versions, board files, platform, licence."""
    versions: dict[str, str] = {}
    missing = []
    tools = ("vivado", "v++") if board.tool.name == "v++" else (board.tool.name,)
    for tool in tools:
        found = _version(tool)
        wanted = f"{board.tool.least} to {board.tool.most}"
        if found is None:
            suite = "Vitis (with Vivado)" if board.tool.name == "v++" else "Vivado"
            missing.append(
                f"{tool} is not on PATH: install {suite} {wanted} and source its settings64.sh"
            )
            continue
        versions[tool] = found
        if not board.tool.least <= found <= board.tool.most:
            missing.append(f"{tool} is version {found}; the scripts were written for {wanted}")
    if board.platform is not None and shutil.which("platforminfo"):
        if board.platform not in _output("platforminfo", "--list"):
            missing.append(
                f"platform {board.platform} is not installed: its development package is on AMD's "
                "page of the board"
            )
    elif board.platform is not None:
        missing.append(
            f"platform {board.platform} is needed (development package from AMD's page of the "
            "board); platforminfo, which would list it, is not on PATH"
        )
    if "vivado" in versions and board.board_part is not None:
        parts = _output("vivado", "-mode", "tcl", "-nojournal", "-nolog", stdin=_LIST_PARTS)
        if board.board_part not in parts:
            missing.append(
                f"board files {board.board_part} are not installed: Vivado Store, or the board "
                "maker's repository under board_store"
            )
    return ToolState(versions, tuple(missing))


_LIST_PARTS = "puts [get_board_parts]\nexit\n"


def licence_hint(board: Board) -> str:
    """What licence the tool asks for."""
    if board.family == "alveo":
        return f"licence: Vivado's Standard edition covers Alveo cards' {board.part} under Vitis"
    return f"licence: Vivado's free Standard edition covers {board.part}"


def _version(tool: str) -> str | None:
    """``2023.2`` of a tool; None where it is not on PATH or does not say."""
    if shutil.which(tool) is None:
        return None
    match = _VERSION.search(_output(tool, "--version" if tool == "v++" else "-version"))
    return match[1] if match else None


def _output(*command: str, stdin: str = "") -> str:
    try:
        done = subprocess.run(  # noqa: S603
            command, input=stdin, capture_output=True, text=True, check=False, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def write_bundle(made: Bundle, folder: Path) -> Path:
    """Write a bundle; what is there of the same contents stays, with what was built from it.

    The folder is replaced as a whole or left as it was.

    Raises:
        BoardError: the folder holds something else.
    """
    stamp = folder / _STAMP
    if folder.exists():
        if not stamp.is_file():
            raise BoardError(f"{folder} exists and is not a board's build: name another folder")
        if json.loads(stamp.read_text())["digest"] == made.digest:
            return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        fresh, old = Path(name) / "fresh", Path(name) / "old"
        for path, text in made.files.items():
            target = fresh / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        facts = {"board": made.board.name, "digest": made.digest, "done": []}
        (fresh / _STAMP).write_text(json.dumps(facts, indent=1) + "\n")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    return folder


def build(
    made: Bundle,
    folder: Path,
    *,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> list[Path]:
    """Run the steps that are not done yet; the files that a board loads.

    Each step's output goes to ``NN-step.log`` in the folder.

    Raises:
        BoardError: a tool is missing or of another version, or a step failed; the message says
            what is needed, or where the step's output is.
    """
    state = find_tool(made.board)
    if state.missing:
        commands = "\n".join("  " + " ".join(step.command) for step in made.steps)
        raise BoardError(
            f"cannot build for {made.board.name}:\n"
            + "\n".join(f"  {line}" for line in state.missing)
            + f"\n({licence_hint(made.board)}; check AMD's current terms.)"
            + f"\nThe commands would be, in {folder}:\n{commands}"
        )
    write_bundle(made, folder)
    stamp = folder / _STAMP
    facts = json.loads(stamp.read_text())
    for number, step in enumerate(made.steps):
        results = [folder / name for name in step.makes]
        if step.name in facts["done"] and all(path.is_file() for path in results):
            continue
        progress(step.name, number, len(made.steps))
        log = folder / f"{number + 1:02}-{step.name.replace(' ', '-')}.log"
        with log.open("w") as output:
            done = subprocess.run(  # noqa: S603
                step.command, cwd=folder, stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        if done.returncode or not all(path.is_file() for path in results):
            raise BoardError(f"{step.command[0]} failed to {step.name}: see {log}")
        facts["done"].append(step.name)
        partial = stamp.with_suffix(".partial")
        partial.write_text(json.dumps(facts, indent=1) + "\n")
        partial.replace(stamp)
    return [folder / name for name in made.results]
