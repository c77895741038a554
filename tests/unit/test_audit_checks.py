"""What the audit reads from messages: facts, randomness, code."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import residue
import residue_federated
from residue.errors import InvalidCiphertext
from residue.paillier import _formats
from residue_federated._components import _MODULES, USES
from residue_federated._jobs import Job
from residue_federated.audit._code import ENGINE, code_of
from residue_federated.audit._facts import MalformedPayload, facts_of
from residue_federated.audit._flow import Breach, Flow, Loop, Scene, Step
from residue_federated.audit._freshness import Freshness, unobfuscated
from residue_federated.audit._protocol import CODE_TAG, Protocol
from residue_federated.proto import v1

JOB = Job.model_validate(
    {
        "name": "t",
        "guest": {"name": "g", "data": {"sklearn": "breast_cancer"}},
        "hosts": [{"name": "h", "data": {"sklearn": "breast_cancer"}}],
        "arbiter": {"name": "a"},
        "key": {"bits": 1024, "insecure_allow_1024": True},
        "components": {
            "scale": {"type": "standardise"},
            "train": {"type": "logistic_regression"},
        },
    }
)


SHARED = JOB.replace(key_bits=1024)


@pytest.fixture(scope="module")
def keys() -> tuple[residue.PublicKey, residue.PrivateKey]:
    return residue.keygen(1024, insecure_allow_1024=True, device="cpu")


Keys = tuple[residue.PublicKey, residue.PrivateKey]


def received(key: residue.PublicKey, values: list[int]) -> NDArray[np.int64]:
    limbs = -(-2 * key.bits // 64)
    data = b"".join(value.to_bytes(8 * limbs, "little") for value in values)
    return _formats.check_ciphertexts(key, np.frombuffer(data, "<u8").reshape(-1, limbs))


# --- facts ----------------------------------------------------------------------------------------


def test_facts_of_ciphertexts_are_those_of_their_headers(keys: Keys) -> None:
    public = keys[0]
    blocks = [public.encrypt(np.zeros((3, 4), dtype=int)), public.encrypt(np.array([1.5, -2.0]))]
    payload = v1.Payload(ciphertexts=v1.Ciphertexts(blocks=[b.to_bytes() for b in blocks]))
    facts = facts_of(payload)
    assert (facts["kind"], facts["count"]) == ("ciphertexts", 14)
    assert [b["shape"] for b in facts["blocks"]] == [[3, 4], [2]]
    assert [b["exponent"] for b in facts["blocks"]] == [0, -13]
    assert {b["key"] for b in facts["blocks"]} == {public.fingerprint.hex()}
    assert [b["bound_bits"] for b in facts["blocks"]] == [32, 64]


def test_facts_of_a_key_count_its_bits_and_do_not_believe_them(keys: Keys) -> None:
    data = keys[0].to_bytes()
    facts = facts_of(v1.Payload(public_key=v1.PublicKey(data=data)))
    assert facts == {"kind": "public_key", "bits": 1024, "key": keys[0].fingerprint.hex()}
    short = data[:16] + (3).to_bytes(128, "little") + data[144:]
    assert facts_of(v1.Payload(public_key=v1.PublicKey(data=short)))["bits"] == 2


def test_facts_of_records_and_answers() -> None:
    record = v1.Record()
    values = np.array([[1.0, np.nan], [np.inf, 2.0]])
    record.arrays["x"].CopyFrom(v1.Array(dtype="<f8", shape=[2, 2], data=values.tobytes()))
    record.arrays["n"].CopyFrom(v1.Array(dtype="<i8", shape=[1], data=bytes(8)))
    facts = facts_of(v1.Payload(record=record))
    assert facts["arrays"] == {"n": ["<i8", [1]], "x": ["<f8", [2, 2], 2]}
    answer = v1.MaskedPlaintexts(values=[(-5).to_bytes(2, "little", signed=True), b"\x00\x01"])
    facts = facts_of(v1.Payload(masked_plaintexts=answer))
    assert facts == {"kind": "masked_plaintexts", "count": 2, "bits": 9}


@pytest.mark.parametrize(
    "payload",
    [
        v1.Payload(),
        v1.Payload(public_key=v1.PublicKey(data=b"short")),
        v1.Payload(ciphertexts=v1.Ciphertexts(blocks=[b"garbage"])),
        v1.Payload(ciphertexts=v1.Ciphertexts(blocks=[b"\xff" * 64])),
        v1.Payload(ciphertexts=v1.Ciphertexts(blocks=[bytes(64)])),
    ],
)
def test_bytes_that_are_no_message_are_refused(payload: v1.Payload) -> None:
    with pytest.raises(MalformedPayload):
        facts_of(payload)


# --- randomness -----------------------------------------------------------------------------------


def test_marks_say_all_of_the_randomness_and_nothing_of_the_plaintext(keys: Keys) -> None:
    n = keys[0].n
    r, s = (pow(x, n, n * n) for x in (12345, 54321))
    c = [(1 + m * n) * x % (n * n) for m, x in [(0, r), (7, r), (n - 1, r), (7, s)]]
    marks = received(keys[0], c)
    assert marks[0] == marks[1] == marks[2] != marks[3]
    assert unobfuscated(marks) == 0
    assert unobfuscated(received(keys[0], [1, 1 + n, 1 + (n - 1) * n, r])) == 3


def test_only_what_was_loaded_has_marks(keys: Keys) -> None:
    public = keys[0]
    sent = public.encrypt(np.arange(5))
    assert sent.randomness_marks is None
    loaded = public.ciphertexts_from_bytes(sent.to_bytes())
    assert loaded.randomness_marks is not None
    assert len(set(loaded.randomness_marks.tolist())) == 5
    assert (loaded + 1).randomness_marks is None
    empty = public.ciphertexts_from_bytes(public.encrypt(np.zeros(0, dtype=int)).to_bytes())
    assert empty.randomness_marks is not None
    assert empty.randomness_marks.size == 0


@pytest.mark.parametrize("bad", ["zero", "n", "n**2", "n**2 + 1"])
def test_one_ciphertext_out_of_range_is_enough(keys: Keys, bad: str) -> None:
    n = keys[0].n
    value = {"zero": 0, "n": n, "n**2": n * n, "n**2 + 1": n * n + 1}[bad]
    with pytest.raises(InvalidCiphertext):
        received(keys[0], [3, value, 5])


def test_randomness_is_remembered_over_any_number_of_messages() -> None:
    random = np.random.default_rng(3)
    marks = random.permutation(5000).astype(np.int64)
    seen, freshness, at = set[int](), Freshness(), 0
    while at < marks.size:
        size = int(random.integers(0, 400))
        # Some of before, some twice in the same message.
        old = random.choice(marks[: at + 1], size=3)
        part = np.concatenate([marks[at : at + size], old, old[:1]])
        expected = 0
        for mark in part.tolist():
            expected += mark in seen
            seen.add(mark)
        assert freshness.repeated(part) == expected
        at += size
    assert freshness.repeated(np.zeros(0, dtype=np.int64)) == 0
    runs = [run.size for run in freshness._runs]
    assert runs == sorted(runs, reverse=True)
    assert len(runs) <= 14


# --- code -----------------------------------------------------------------------------------------


def test_code_is_hashed_by_component(tmp_path: Path) -> None:
    root = Path(residue_federated.__file__).parent
    ours = code_of(JOB)
    assert set(ours) == {ENGINE, "scale", "train"}
    copy = Path(shutil.copytree(root, tmp_path / "package"))
    assert code_of(JOB, copy) == ours
    (copy / "features" / "_standardise.py").rename(copy / "features" / "_other.py")
    changed = code_of(JOB, copy)
    assert [name for name in ours if ours[name] != changed[name]] == ["scale"]
    with open(copy / "linear" / "_train.py", "a") as file:
        file.write("\n")
    assert code_of(JOB, copy)["train"] != ours["train"]
    assert code_of(SHARED) != code_of(SHARED, copy)  # which builds on the linear models
    for shared in ("proto", "transport"):
        with open(copy / shared / "__init__.py", "a") as file:
            file.write("\n")
        assert code_of(JOB, copy)[ENGINE] != ours[ENGINE]
        shutil.copy(root / shared / "__init__.py", copy / shared)
        assert code_of(JOB, copy)[ENGINE] == ours[ENGINE]
    (copy / "_extra.py").touch()
    assert code_of(JOB, copy)[ENGINE] != ours[ENGINE]


# --- protocol -------------------------------------------------------------------------------------

RECORD_FACTS = {"kind": "record", "arrays": {}}


def flow_of(component: Any, scene: Scene) -> Flow | None:
    if component.type == "standardise":
        return None
    step = Step("host", "guest", "u/{epoch}", "ciphertexts", bits=20)
    once = Flow(
        Step("arbiter", "guest", "key", "public_key"),
        Loop("epoch", (step,), most=3, rounds=True),
        Step("host", "guest", "scores", "record"),
    )
    return once if scene.rows == 5 else Flow(agrees=False, parts={"class-*": once})


def begun(rows: int, part: str = "train") -> Protocol:
    protocol = Protocol(JOB, "g", flow_of, applies=False, own_data=False)
    protocol.begin("train", rows)
    for peer in ("h", "a"):
        protocol.message(peer, "g", f"{part}/states", RECORD_FACTS)
    for peer in ("h", "a"):
        protocol.message("g", peer, f"{part}/resume", RECORD_FACTS)
    return protocol


def ciphertexts(key: str = "k", bits: int = 32) -> dict[str, Any]:
    return {"kind": "ciphertexts", "blocks": [{"key": key, "bound_bits": bits}]}


def announced(bits: int = 1024) -> dict[str, Any]:
    return {"kind": "public_key", "bits": bits, "key": "k"}


@pytest.mark.parametrize(("rows", "part"), [(5, "train"), (6, "train/class-0")])
def test_messages_that_are_ahead_are_checked_when_the_party_is_there(rows: int, part: str) -> None:
    protocol = begun(rows, part)
    protocol.message("a", "g", f"{part}/key", announced())
    protocol.message("h", "g", f"{part}/u/2", ciphertexts())
    protocol.resumed(part, 2)
    protocol.message("h", "g", f"{part}/scores", RECORD_FACTS)
    protocol.finish("train")
    protocol.end()
    early = begun(rows, part)
    early.message("h", "g", f"{part}/u/0", ciphertexts())
    with pytest.raises(Breach, match="expected 'u/2'"):
        early.resumed(part, 2)


@pytest.mark.parametrize(
    ("sender", "tag", "facts", "text"),
    [
        ("h", "other/x", RECORD_FACTS, "there is no 'other'"),
        ("a", "train/key", announced(512), "a key of 512 bits where 1024 were agreed"),
        ("h", "train/u/0", ciphertexts(bits=64), "up to 64 bits, not 32"),
        ("h", "train/u/1", ciphertexts(), "expected 'u/0'"),
        ("h", CODE_TAG, {"kind": "masked_plaintexts", "bits": 3}, "expected 'code'"),
        ("a", "train/x", {"kind": "masked_plaintexts", "bits": 1025}, "expected"),
    ],
)
def test_a_breach_names_its_party(sender: str, tag: str, facts: dict[str, Any], text: str) -> None:
    protocol = begun(5)
    protocol.resumed("train", 0)
    with pytest.raises(Breach, match=text) as caught:
        protocol.message(sender, "g", tag, facts)
    assert caught.value.party == sender


def test_a_component_ends_with_everything_in_its_place() -> None:
    protocol = begun(5)
    protocol.resumed("train", 3)
    with pytest.raises(Breach, match="h never sent 'scores' to g"):
        protocol.finish("train")
    protocol.message("h", "g", "train/scores", RECORD_FACTS)
    with pytest.raises(Breach, match="a never sent 'key' to g"):
        protocol.finish("train")
    protocol.message("a", "g", "train/key", announced())
    protocol.finish("train")


def test_ciphertexts_under_a_key_of_nobody_are_noticed() -> None:
    protocol = begun(5)
    protocol.resumed("train", 2)
    protocol.message("a", "g", "train/key", announced())
    protocol.message("h", "g", "train/u/2", ciphertexts(key="another"))
    protocol.message("h", "g", "train/scores", RECORD_FACTS)
    with pytest.raises(Breach, match="h sent 'train/u/2' under a key that nobody announced"):
        protocol.finish("train")


def test_a_key_of_a_component_is_one_of_its_parts() -> None:
    part = Flow(Step("host", "guest", "u", "ciphertexts"), agrees=False)
    key = Step("arbiter", "guest", "key", "public_key")
    whole = Flow(key, agrees=False, parts={"class-*": part})

    def finish(key: str) -> None:
        protocol = Protocol(JOB, "g", lambda *_: whole, applies=False, own_data=False)
        protocol.begin("train", 5)
        protocol.message("a", "g", "train/key", announced())
        protocol.message("h", "g", "train/class-0/u", ciphertexts(key))
        protocol.finish("train")

    finish("k")
    with pytest.raises(Breach, match="h sent 'train/class-0/u' under a key that nobody announced"):
        finish("another")


@pytest.mark.parametrize("name", ["class-99", "class-*"])
def test_a_peer_opens_no_part_in_which_the_party_speaks(name: str) -> None:
    both = Step("host", "guest", "w", "record"), Step("guest", "host", "w", "record")
    whole = Flow(agrees=False, parts={"class-*": Flow(*both, agrees=False)})

    def begun() -> Protocol:
        protocol = Protocol(JOB, "g", lambda *_: whole, applies=False, own_data=False)
        protocol.begin("train", 5)
        protocol.message("h", "g", "train/class-0/w", RECORD_FACTS)  # which is ahead
        protocol.message("g", "h", "train/class-0/w", RECORD_FACTS)
        return protocol

    protocol = begun()
    protocol.finish("train")
    protocol.end()
    late = f"train/{name}/w"
    protocol.message("h", "g", late, RECORD_FACTS)
    with pytest.raises(Breach, match="has no place for it") as after:
        protocol.end()
    protocol = begun()
    protocol.message("h", "g", late, RECORD_FACTS)
    with pytest.raises(Breach, match="has no place for it") as within:
        protocol.finish("train")
    assert (after.value.party, within.value.party) == ("h", "h")


def test_what_waits_in_a_part_has_no_place_when_the_run_ends() -> None:
    protocol = begun(6, "train/class-0")  # which has not agreed on where to go on
    with pytest.raises(Breach, match="h sent 'train/class-0/states' to g, which has no place"):
        protocol.end()


def test_a_component_without_a_protocol_is_reported_and_one_that_never_ran_noticed() -> None:
    protocol = Protocol(JOB, "g", flow_of, applies=False, own_data=False)
    protocol.begin("scale", None)
    protocol.message("h", "g", "scale/anything", RECORD_FACTS)
    protocol.finish("scale")
    assert protocol.undeclared == {"scale"}
    protocol.message("h", "g", "train/u/0", ciphertexts())
    with pytest.raises(Breach, match="h sent 'train/u/0' to g, which has no place for it"):
        protocol.end()


def test_what_a_party_sends_itself_is_checked_after_the_fact() -> None:
    facts = {"kind": "record", "arrays": {"x": ["<f8", [2], 1]}}
    for own_data in (False, True):
        protocol = Protocol(JOB, "h", flow_of, applies=False, own_data=own_data)
        protocol.begin("train", 5)
        for sender, receiver, tag in [("h", "g", "states"), ("g", "h", "resume")]:
            protocol.message(sender, receiver, f"train/{tag}", RECORD_FACTS)
        protocol.resumed("train", 3)
        if own_data:
            with pytest.raises(Breach, match="1 numbers in 'x' that are null"):
                protocol.message("h", "g", "train/scores", facts)
        else:
            protocol.message("h", "g", "train/scores", facts)


def test_every_component_declares_its_protocol() -> None:
    for module in _MODULES.values():
        assert hasattr(importlib.import_module(f"residue_federated.{module}"), "flow"), module


def test_the_hash_of_a_component_covers_all_code_that_it_runs() -> None:
    root = Path(residue_federated.__file__).parent
    components = {module.partition(".")[0] for module in _MODULES.values()}
    imported = re.compile(r"from residue_federated\.(\w+)\b(?!\._config)")
    for package in components:
        text = "".join(path.read_text() for path in (root / package).glob("*.py"))
        used = set(imported.findall(text)) & components - {package}
        assert used == set(USES.get(package, ())), package
