"""The `residue` command line.

Commands import what they need when they run, so that ``residue --help`` is fast. Other
distributions add sub-commands through the entry point group ``residue.cli``: a `typer.Typer`, or a
function that becomes one command.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from residue import __version__
from residue._cli_card import app as card
from residue._cli_compare import COMPARE_HELP, compare
from residue._cli_profile import PROFILE_HELP, profile
from residue.errors import (
    BackendError,
    EncodingError,
    FederatedError,
    InvalidCiphertext,
    InvalidKey,
    KeyFileError,
    KeyMismatch,
    ResidueError,
)

__all__ = ["EXIT_CODES", "app", "command_names", "main"]

EXIT_CODES: dict[type[ResidueError], int] = {
    BackendError: 3,
    KeyFileError: 4,
    InvalidKey: 4,
    KeyMismatch: 4,
    EncodingError: 5,
    InvalidCiphertext: 5,
    FederatedError: 6,
    ResidueError: 1,
}
"""Exit code of each kind of error; 2 is a wrong command line."""

_EPILOG = (
    "Exit codes: 0 done; 1 other error; 2 wrong command line; 3 device; 4 key or passphrase; "
    "5 data; 6 federated job."
)

app = typer.Typer(
    name="residue",
    help="Paillier arithmetic on an FPGA card, or on the CPU.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, gpu, card, card:ADDRESS, cards:ADDRESS, owner:PATH or auto (a healthy card, "
        "else the CPU)."
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="File whose first line is the passphrase; else RESIDUE_PASSPHRASE, else ask."
    ),
]


@app.callback(invoke_without_command=True)
def _residue(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def devices(
    device: Annotated[
        list[str] | None, typer.Option(help="Look at these only, e.g. card:ADDRESS.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the devices that are in reach, and what they are."""
    from residue.backends import available_backends, get_backend

    rows: list[dict[str, Any]] = []
    for name in device or available_backends():
        try:
            rows.append({**get_backend(name).describe(), "name": name})
        except BackendError as error:
            if device:
                raise
            rows.append({"name": name, "healthy": False, "error": str(error)})
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        typer.echo(row.pop("name"))
        for key, value in row.items():
            typer.echo(f"  {key}: {value}")


@app.command()
def selftest(device: Device = "auto", as_json: Json = False) -> None:
    """Compute known answers on a device, for every operation. Exit code 3 if one is wrong."""
    from residue._selftest import run
    from residue.backends import get_backend

    backend = get_backend(device)
    with _progress(as_json) as step:
        rows = [vars(outcome) for outcome in run(backend, progress=step)]
    if as_json:
        _print_json(rows)
    else:
        for row in rows:
            state = "ok" if row["ok"] else "WRONG"
            typer.echo(
                f"{row['operation']:<12} {state:<6} {row['seconds']:.3f} s  {row['error'] or ''}"
            )
    if not all(row["ok"] for row in rows):
        raise BackendError(f"device {backend.name} computed a wrong answer: do not use it")


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="Writes PATH.key (private) and PATH.pub (public).")],
    bits: Annotated[int, typer.Option(help="Size of n: 2048, 3072, ...")] = 2048,
    insecure_allow_1024: Annotated[
        bool, typer.Option("--insecure-allow-1024", help="Permit 1024-bit keys, for comparisons.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing key files.")] = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a key pair. The private key is stored encrypted, readable by you alone."""
    from residue.paillier import keygen as generate
    from residue.paillier import save_private_key, save_public_key

    private, public = Path(f"{path}.key"), Path(f"{path}.pub")
    for target in (private, public):
        if target.exists() and not force:
            raise KeyFileError(f"{target} exists; give another path or --force")
    passphrase = _passphrase(passphrase_file, confirm=True)
    with _progress(as_json) as step:
        step("generating primes", 0, 2)
        pk, sk = generate(bits, insecure_allow_1024=insecure_allow_1024, device="cpu")
        step("writing", 1, 2)
        save_private_key(private, sk, passphrase)
        save_public_key(public, pk)
    _report(
        as_json,
        private_key=str(private),
        public_key=str(public),
        bits=pk.bits,
        fingerprint=pk.fingerprint.hex(),
    )


@app.command()
def encrypt(
    source: Annotated[Path, typer.Argument(help="Numbers: .npy, .csv or text.")],
    target: Annotated[Path, typer.Argument(help="Ciphertext file to write.")],
    key: Annotated[Path, typer.Option(help="Public key file.")],
    scheme: Annotated[str | None, typer.Option(help="djn (default) or classic.")] = None,
    precision: Annotated[
        float | None, typer.Option(help="Coarsest step between two numbers; default 2**-52.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Encrypt a file of numbers."""
    from residue._cli_files import encrypt_file

    with _progress(as_json) as step:
        facts = encrypt_file(
            source, target, key, scheme=scheme, precision=precision, device=device, progress=step
        )
    _report(as_json, **facts)


@app.command()
def decrypt(
    source: Annotated[Path, typer.Argument(help="Ciphertext file.")],
    key: Annotated[Path, typer.Option(help="Private key file.")],
    target: Annotated[
        Path | None, typer.Argument(help=".npy, .csv or text to write; default: print.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Decrypt a ciphertext file. Files are written readable by you alone."""
    from residue._cli_files import decrypt_file, format_text, write_numbers
    from residue.paillier import load_private_key

    sk = load_private_key(key, _passphrase(passphrase_file), device=device)
    with _progress(as_json) as step:
        numbers = decrypt_file(source, sk, progress=step)
    if target is not None:
        write_numbers(target, numbers)
        _report(as_json, target=str(target), shape=list(numbers.shape), dtype=str(numbers.dtype))
    elif as_json:
        _print_json({"shape": list(numbers.shape), "values": numbers.tolist()})
    else:
        typer.echo(format_text(numbers, " "), nl=False)


@app.command()
def bench(
    device: Device = "cpu",
    key_bits: Annotated[
        list[int] | None, typer.Option(help="Key size; repeat for several. Default 1024, 2048.")
    ] = None,
    cores: Annotated[int, typer.Option(help="CPU cores to use; phe uses one.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Measure operations a second, beside the phe library where it is installed."""
    from dataclasses import asdict

    from residue._bench import run
    from residue.backends import get_backend
    from residue.backends._cpu_native import open_cpu

    kind, _, kernel = device.partition(":")
    backend = (
        open_cpu(workers=cores, kernel=kernel or None) if kind == "cpu" else get_backend(device)
    )
    rows: list[dict[str, Any]] = []
    with _progress(as_json) as step:
        for bits in key_bits or [1024, 2048]:
            rows += [asdict(row) for row in run(backend, bits, cores=cores, progress=step)]
    if as_json:
        _print_json(rows)
        return
    typer.echo(f"{'key':>5}  {'operation':<9} {'ours/s':>12} {'peer/s':>12} {'ratio':>7}")
    for row in rows:
        peer, ratio = row["peer_ops_per_second"], row["ratio"]
        typer.echo(
            f"{row['key_bits']:>5}  {row['operation']:<9} {row['ops_per_second']:>12,.1f} "
            + (f"{peer:>12,.1f} {ratio:>7.2f}" if ratio is not None else f"{'-':>12} {'-':>7}")
        )


app.command(
    "profile",
    help=PROFILE_HELP,
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)(profile)
app.command("compare", help=COMPARE_HELP)(compare)
app.add_typer(card, name="card")


def command_names() -> set[str]:
    """Names of all sub-commands."""
    return {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback is not None
    }


# --- shared by the commands ---------------------------------------------------------------------


Step = Callable[[str, int, int], None]
"""Hears what is done next, and how many of how many parts are done."""


@contextmanager
def _progress(as_json: bool) -> Iterator[Step]:
    """A progress bar on stderr; nothing with --json or where nobody watches."""
    if as_json or not sys.stderr.isatty():
        yield lambda text, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda text, done, total: bar.update(
            task, description=text, completed=done, total=total
        )


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


def _report(as_json: bool, **facts: Any) -> None:
    if as_json:
        _print_json(facts)
    else:
        for name, value in facts.items():
            typer.echo(f"{name.replace('_', ' ')}: {value}")


def _passphrase(file: Path | None, *, confirm: bool = False) -> str:
    """The passphrase from a file, the environment or a prompt; never from the command line."""
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(f"cannot read passphrase file {file}") from error
        if not lines or not lines[0]:
            raise KeyFileError(f"passphrase file {file} is empty")
        return lines[0]
    given = os.environ.get("RESIDUE_PASSPHRASE")
    if given:
        return given
    if not sys.stdin.isatty():
        raise KeyFileError("no passphrase: use --passphrase-file or RESIDUE_PASSPHRASE")
    answer: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return answer


# --- commands of other distributions ------------------------------------------------------------


def _mount(entry: EntryPoint) -> None:
    """Add a command that loads the entry point when it is called and hands its arguments over."""
    provider = entry.module.partition(".")[0]

    @app.command(
        entry.name,
        help=f"Part of {provider}; see residue {entry.name} --help.",
        add_help_option=False,
        context_settings={
            "allow_extra_args": True,
            "allow_interspersed_args": False,
            "ignore_unknown_options": True,
        },
    )
    def forward(context: typer.Context) -> None:
        try:
            target = entry.load()
        except (ImportError, AttributeError) as error:
            extra = provider.removeprefix("residue_")
            raise ResidueError(
                f"residue {entry.name} cannot start: {error}. Install what it needs with: "
                f"pip install 'residue[{extra}]'"
            ) from error
        if not isinstance(target, typer.Typer):
            function = target
            target = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            target.command()(function)
        target(args=context.args, prog_name=f"residue {entry.name}")


for _entry in sorted(entry_points(group="residue.cli"), key=lambda e: e.name):
    _mount(_entry)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: one line on stderr for errors of our tree and the system's."""
    warnings.showwarning = _show_warning
    try:
        app(args=None if argv is None else list(argv), prog_name="residue")
    except ResidueError as error:
        typer.echo(f"error: {error}", err=True)
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        sys.exit(code)
    except OSError as error:  # a file or directory that cannot be used
        of = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {of}{error.strerror or error}", err=True)
        sys.exit(1)
    sys.exit(0)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"warning: {message}", err=True)
