"""The command line, run as a user runs it, mostly in this process."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from gmpy2 import mpz

from residue import _bench, _bench_peer, _cli, _selftest
from residue._cli_files import read_numbers
from residue._limbs import to_limbs
from residue.backends._cpu import CpuArray, CpuBackend
from residue.errors import (
    BackendError,
    CommandFailed,
    EncodingError,
    EncodingOverflow,
    FederatedError,
    InvalidCiphertext,
    InvalidKey,
    KeyFileError,
    KeyMismatch,
    ResidueError,
    WrongPassphrase,
)


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def residue(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("RESIDUE_PASSPHRASE", "a passphrase")

    def run(*argv: Any) -> Result:
        with pytest.raises(SystemExit) as caught:
            _cli.main([str(a) for a in argv])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(caught.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def keyed(residue: Any, tmp_path: Path) -> Path:
    argv = ("keygen", tmp_path / "k", "--bits", 1024, "--insecure-allow-1024")
    assert residue(*argv).code == 0
    return tmp_path


def test_help_starts_without_heavy_imports() -> None:
    code = (
        "import sys; from residue import _cli\n"
        "try: _cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'gmpy2', 'cryptography', 'residue_sim', 'residue_federated', 'phe'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("devices", "selftest", "keygen", "encrypt", "decrypt", "bench", "fl"):
        assert command in done.stdout
    assert "Exit codes" in done.stdout


def test_version(residue: Any) -> None:
    assert residue("--version").out.strip() == "0.1.0"


def test_wrong_command_line(residue: Any) -> None:
    for argv in (["nonsense"], ["keygen"], ["bench", "--cores", "0"], ["devices", "--what"]):
        assert residue(*argv).code == 2


def test_devices(residue: Any) -> None:
    rows = json.loads(residue("devices", "--device", "cpu", "--json").out)
    assert [row["name"] for row in rows] == ["cpu"]
    assert rows[0]["healthy"] is True
    assert "cores" in residue("devices", "--device", "cpu").out
    assert "cpu" in [row["name"] for row in json.loads(residue("devices", "--json").out)]
    failed = residue("devices", "--device", "abacus")
    assert failed.code == 3
    assert failed.err.count("\n") == 1


def test_selftest(residue: Any) -> None:
    rows = json.loads(residue("selftest", "--device", "cpu", "--json").out)
    assert {row["operation"] for row in rows} == {*_selftest.KNOWN_ANSWERS, "paillier"}
    assert all(row["ok"] for row in rows)
    assert "WRONG" not in residue("selftest", "--device", "cpu").out


def test_known_answers_are_those_of_python_integers() -> None:
    digests = {
        name: _selftest.digest(to_limbs([mpz(v) for v in values], 16))
        for name, values in _selftest.expected().items()
    }
    assert digests == _selftest.KNOWN_ANSWERS


@pytest.mark.parametrize("operation", ["mul", "pow", "pow_fixed", "prod", "multi_pow", "inverse"])
def test_selftest_notices_a_wrong_answer(
    residue: Any, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    right = getattr(CpuBackend, operation)

    def wrong(self: CpuBackend, *arguments: Any) -> CpuArray:
        result: CpuArray = right(self, *arguments)
        return CpuArray(result.modulus, [v ^ 1 for v in result._values])

    monkeypatch.setattr(CpuBackend, operation, wrong)
    outcomes = _selftest.run(CpuBackend(workers=1))
    assert operation in [outcome.operation for outcome in outcomes if not outcome.ok]
    failed = residue("selftest", "--device", "cpu:gmpy2")
    assert failed.code == 3
    assert "WRONG" in failed.out
    assert "do not use it" in failed.err


def test_keygen_writes_both_files(keyed: Path, residue: Any) -> None:
    assert stat.S_IMODE((keyed / "k.key").stat().st_mode) == 0o600
    before = (keyed / "k.key").read_bytes()
    again = ("keygen", keyed / "k", "--bits", 1024, "--insecure-allow-1024")
    refused = residue(*again)
    assert refused.code == 4
    assert "exists" in refused.err
    assert (keyed / "k.key").read_bytes() == before
    report = json.loads(residue(*again, "--force", "--json").out)
    assert report["bits"] == 1024
    assert (keyed / "k.key").read_bytes() != before


def test_keygen_refuses_small_keys(residue: Any, tmp_path: Path) -> None:
    refused = residue("keygen", tmp_path / "k", "--bits", 1024)
    assert refused.code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "1,2\n-3,4\n", [[1, 2], [-3, 4]]),
        ("a.txt", "1.5\n\n-2e3\n", [1.5, -2000.0]),
        ("a.csv", f"{10**30}\n", [10**30]),
    ],
)
@pytest.mark.parametrize("out", ["b.npy", "b.csv", "b.txt"])
def test_files_come_back_as_they_were(
    keyed: Path, residue: Any, name: str, content: str, expected: Any, out: str
) -> None:
    source, cipher, target = keyed / name, keyed / "c.bin", keyed / out
    source.write_text(content)
    made = residue("encrypt", source, cipher, "--key", keyed / "k.pub", "--device", "cpu", "--json")
    assert made.code == 0
    assert json.loads(made.out)["shape"] == list(np.shape(expected))
    argv = ("decrypt", cipher, "--key", keyed / "k.key", "--device", "cpu")
    if expected == [10**30]:
        assert residue(*argv, target).code == 5
        assert not target.exists()
        return
    assert residue(*argv, target).code == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert read_numbers(target).tolist() == expected
    printed = json.loads(residue(*argv, "--json").out)
    assert printed == {"shape": list(np.shape(expected)), "values": expected}
    assert residue(*argv).out.split()[0] == str(np.ravel(expected)[0])


def test_npy_files_in_chunks(keyed: Path, residue: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 70))
    np.save(keyed / "x.npy", x)
    argv: tuple[Any, ...] = ("--key", keyed / "k.pub", "--device", "cpu")
    argv += ("--scheme", "djn", "--precision", "1e-9")
    assert residue("encrypt", keyed / "x.npy", keyed / "c", *argv).code == 0
    argv = ("--key", keyed / "k.key", "--device", "cpu")
    assert residue("decrypt", keyed / "c", keyed / "missing" / "y.npy", *argv).code == 1
    assert residue("decrypt", keyed / "c", keyed / "y.npy", *argv).code == 0
    np.testing.assert_allclose(np.load(keyed / "y.npy"), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "no numbers"),
        ("a.csv", "1,2\n3\n", "row 2: 1 values, not 2"),
        ("a.csv", "1,\n", "missing"),
        ("a.csv", "1,x\n", "not a number"),
        ("a.txt", "1 nan\n", "NaN"),
        ("a.npy", "1 2", "cannot read"),
        ("a.npy", None, "cannot read"),
    ],
)
def test_bad_numbers(
    keyed: Path, residue: Any, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (keyed / name).write_text(content)
    failed = residue("encrypt", keyed / name, keyed / "c", "--key", keyed / "k.pub")
    assert failed.code == 5
    assert message in failed.err
    assert failed.err.count("\n") == 1
    assert not (keyed / "c").exists()


def test_pickled_arrays_are_not_loaded(keyed: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    (keyed / "x.npy").write_bytes(buffer.getvalue())
    with pytest.raises(EncodingError, match="allow_pickle"):
        read_numbers(keyed / "x.npy")


def test_key_and_ciphertext_errors(
    keyed: Path, residue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (keyed / "x.txt").write_text("1\n")
    assert residue("encrypt", keyed / "x.txt", keyed / "c", "--key", keyed / "k.pub").code == 0
    decrypt = ("decrypt", keyed / "c", "--key", keyed / "k.key", "--device", "cpu")
    (keyed / "pass").write_text("wrong\n")
    wrong = residue(*decrypt, "--passphrase-file", keyed / "pass")
    assert wrong.code == 4
    assert "passphrase" in wrong.err
    assert "wrong\n" not in wrong.err
    (keyed / "pass").write_text("a passphrase\n")
    monkeypatch.delenv("RESIDUE_PASSPHRASE")
    assert residue(*decrypt, "--passphrase-file", keyed / "pass").out == "1\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "no passphrase" in residue(*decrypt).err
    (keyed / "pass").write_text("")
    assert residue(*decrypt, "--passphrase-file", keyed / "pass").code == 4
    assert residue(*decrypt, "--passphrase-file", keyed / "none").code == 4
    monkeypatch.setenv("RESIDUE_PASSPHRASE", "a passphrase")
    (keyed / "c").write_bytes((keyed / "c").read_bytes()[:-1])
    assert residue(*decrypt).code == 5
    assert residue("decrypt", keyed / "none", "--key", keyed / "k.key").code == 5
    (keyed / "k.key").write_bytes((keyed / "k.key").read_bytes()[:-1])
    assert residue(*decrypt).code == 4
    assert residue("decrypt", keyed / "c", "--key", keyed / "none").code == 4
    assert residue(*decrypt, "--device", "abacus").code in (3, 4)


def test_prompt_asks_twice_for_a_new_key(
    residue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESIDUE_PASSPHRASE")
    asked: list[dict[str, Any]] = []

    def prompt(text: str, **options: Any) -> str:
        asked.append(options)
        return "typed"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr(typer, "prompt", prompt)
    argv = ("keygen", tmp_path / "k", "--bits", 1024, "--insecure-allow-1024")
    assert residue(*argv).code == 0
    assert asked[0]["hide_input"]
    assert asked[0]["confirmation_prompt"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ResidueError, 1),
        (BackendError, 3),
        (CommandFailed, 3),
        (KeyFileError, 4),
        (WrongPassphrase, 4),
        (InvalidKey, 4),
        (KeyMismatch, 4),
        (EncodingError, 5),
        (EncodingOverflow, 5),
        (InvalidCiphertext, 5),
        (FederatedError, 6),
    ],
)
def test_exit_codes(
    residue: Any, monkeypatch: pytest.MonkeyPatch, error: type[ResidueError], code: int
) -> None:
    def fail() -> None:
        raise error("what was wrong")

    monkeypatch.setattr("residue.backends.available_backends", fail)
    failed = residue("devices")
    assert failed.code == code
    assert failed.err == "error: what was wrong\n"


def test_warnings_are_one_line(residue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warnings.showwarning", _cli._show_warning)
    _cli._show_warning(UserWarning("the card failed"))
    assert residue("--version").err == "warning: the card failed\n"


# --- commands of other distributions ------------------------------------------------------------


def sample(number: int, fail: bool = False) -> None:
    """Print a number."""
    if fail:
        raise BackendError("the sample failed")
    typer.echo(f"sample {number}")


sample_app = typer.Typer()
sample_app.command("one")(sample)
sample_app.command("two")(sample)


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cli.app, "registered_commands", [*_cli.app.registered_commands])
    monkeypatch.setitem(sys.modules, "residue_sample", sys.modules[__name__])
    for name, value in (
        ("sample", "residue_sample:sample"),
        ("samples", "residue_sample:sample_app"),
        ("broken", "residue_missing._cli:app"),
        ("renamed", "residue_sample:nothing"),
    ):
        _cli._mount(EntryPoint(name, value, "residue.cli"))


@pytest.mark.usefixtures("mounted")
def test_mounted_commands(residue: Any) -> None:
    assert residue("sample", "3").out == "sample 3\n"
    assert residue("samples", "two", "4").out == "sample 4\n"
    assert "Print a number" in residue("sample", "--help").out
    assert residue("sample", "x").code == 2
    failed = residue("sample", "3", "--fail")
    assert failed.code == 3
    assert failed.err == "error: the sample failed\n"


@pytest.mark.usefixtures("mounted")
def test_missing_extras_are_named(residue: Any) -> None:
    failed = residue("broken", "run")
    assert failed.code == 1
    assert "pip install 'residue[missing]'" in failed.err
    assert failed.err.count("\n") == 1
    assert residue("renamed").code == 1


# --- bench --------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bench, "_ROUNDS", 1)
    monkeypatch.setattr(_bench, "_WARM_UP_ENCRYPTIONS", 4)


@pytest.mark.usefixtures("quick")
def test_bench_reports_every_operation_beside_its_peer(residue: Any) -> None:
    rows = json.loads(residue("bench", "--device", "cpu", "--key-bits", 1024, "--json").out)
    assert [row["operation"] for row in rows] == list(_bench.OPERATIONS)
    for row in rows:
        assert row["device"] == "cpu"
        assert row["key_bits"] == 1024
        assert row["cores"] == 1
        assert row["peer"].startswith("phe ")
        assert row["ops_per_second"] > 0
        assert row["peer_ops_per_second"] > 0
        assert row["ratio"] > 0


@pytest.mark.usefixtures("quick")
def test_bench_without_phe(residue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phe", None)
    assert _bench_peer.load((3, 5)) is None
    rows = json.loads(residue("bench", "--key-bits", 1024, "--json").out)
    assert {(row["peer"], row["peer_ops_per_second"], row["ratio"]) for row in rows} == {
        (None, None, None)
    }
    assert "-" in residue("bench", "--key-bits", 1024).out
