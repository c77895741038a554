from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from residue_federated._jobs import Job, load_job
from residue_federated.errors import JobError

EXAMPLE = Path(__file__).parents[2] / "examples" / "breast_lr.yaml"


@pytest.fixture
def content() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    return loaded


def refused(tmp_path: Path, content: object) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(JobError) as caught:
        load_job(path)
    return str(caught.value)


def test_example_is_valid_and_complete() -> None:
    job = load_job(EXAMPLE)
    assert [job.role(p.name) for p in job.parties] == ["guest", "host", "arbiter"]
    assert job.key.bits == 1024
    assert [c.type for c in job.components.values()] == ["standardise", "logistic_regression"]
    assert job.trainer == "train"
    assert job.input_of("train") == "scale"
    assert job.input_of("scale") is None


@pytest.mark.parametrize("path", sorted(EXAMPLE.parent.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_example_is_a_job(path: Path) -> None:
    assert load_job(path).trainer == "train"


def test_unknown_field_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    content["components"]["train"]["lerning_rate"] = 0.1
    assert "components.train.lerning_rate: unknown field" in refused(tmp_path, content)


def test_all_faults_are_told_at_once(tmp_path: Path, content: dict[str, Any]) -> None:
    content["components"]["train"]["epochs"] = 0
    del content["hosts"]
    message = refused(tmp_path, content)
    assert "components.train.epochs" in message
    assert "hosts: missing" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"key": {"bits": 1024}}, "insecure_allow_1024"),
        ({"key": {"bits": 512}}, "key.bits"),
        ({"arbiter": {"name": "host"}}, "party names must differ"),
        ({"arbiter": {"name": "a", "data": {"sklearn": "breast_cancer"}}}, "never holds data"),
        ({"guest": {"name": "guest"}}, "guest needs data"),
        ({"guest": {"name": "guest", "data": {"file": "x.txt"}}}, ".csv or .parquet"),
        ({"guest": {"name": "guest", "data": {"file": "x.csv"}}}, "guest.data.label"),
        (
            {"guest": {"name": "guest", "data": {"file": "x.csv", "label": "id"}}},
            "'id' cannot be both identifier and label",
        ),
        *(
            (
                {
                    "guest": {
                        "name": "guest",
                        "data": {"file": "x.csv", "label": "y", "features": f},
                    }
                },
                text,
            )
            for f, text in (
                (["a", "b", "a"], "features: 'a' is repeated"),
                (["a", "y"], "features: 'y' is the identifier or the label"),
                (["id"], "features: 'id' is the identifier or the label"),
            )
        ),
        *(
            (
                {"hosts": [{"name": "host", "data": {"sklearn": "breast_cancer"}, field: value}]},
                f"hosts.0.{field}: {text}",
            )
            for field, value, text in (
                ("address", "10.0.0.1:71000", "port 71000 is above 65535"),
                ("address", "bank..example:7100", "'bank..example' is no name of a host"),
                ("address", f"{'x' * 64}.example:7100", f"'{'x' * 64}.example' is no name"),
                ("proxy", "http://10.0.0.1:99999", "port 99999 is above 65535"),
            )
        ),
        ({"hosts": []}, "hosts"),
        ({"arbiter": None}, "components.train: logistic_regression needs an arbiter"),
        ({"components": {}}, "components"),
        ({"components": {"a": {"type": "magic"}}}, "components.a"),
        (
            {"components": {"a": {"type": "standardise", "input": "b"}}},
            "components.a.input: no component 'b' before it",
        ),
        (
            {"hosts": [{"name": "host", "data": {"file": "x.csv", "label": "y"}}]},
            "only the guest holds the label",
        ),
    ],
)
def test_contradictions(
    tmp_path: Path, content: dict[str, Any], change: dict[str, Any], expected: str
) -> None:
    assert expected in refused(tmp_path, content | change)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", ""])
def test_not_a_job(tmp_path: Path, text: str) -> None:
    assert "job.yaml" in refused(tmp_path, text)


@pytest.mark.parametrize(
    "value",
    [
        "2026-02-30",
        "!!int ''",
        "0x_",
        "1" * 5000,
        "!!bool perhaps",
        "!!timestamp once",
        "[" * 3000 + "]" * 3000,
    ],
)
def test_values_that_the_parser_stumbles_over(tmp_path: Path, value: str) -> None:
    assert "job.yaml is not YAML" in refused(tmp_path, f"name: n\nsince: {value}\n")


def test_a_path_that_is_none(tmp_path: Path, content: dict[str, Any]) -> None:
    content["guest"]["data"] = {"file": "a\0.csv", "label": "y"}
    assert "guest.data.file: embedded null" in refused(tmp_path, content)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot read"):
        load_job(tmp_path / "none.yaml")


def test_data_files_are_relative_to_the_job(tmp_path: Path, content: dict[str, Any]) -> None:
    content["guest"]["data"] = {"file": "guest.csv", "label": "y"}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    data = load_job(path).guest.data
    assert getattr(data, "file", None) == tmp_path / "guest.csv"


def test_digest_covers_what_parties_share_and_nothing_private(content: dict[str, Any]) -> None:
    job = Job.model_validate(content)
    assert job.replace(devices={"host": "cpu"}).digest == job.digest
    assert job.replace(rounds=3).digest != job.digest
    assert job.replace(key_bits=2048).digest != job.digest


def test_replace_checks_again(content: dict[str, Any]) -> None:
    job = Job.model_validate(content)
    assert job.replace(devices={"host": "card"}).hosts[0].device == "card"
    with pytest.raises(JobError, match="no party 'nobody'"):
        job.replace(devices={"nobody": "cpu"})
    with pytest.raises(JobError, match=r"components\.train\.epochs"):
        job.replace(rounds=0)
