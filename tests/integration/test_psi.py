"""Jobs that align their tables first, over real gRPC with mutual TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from residue_federated import Job
from residue_federated._data import Table, load_table
from residue_federated.errors import DataError
from residue_federated.proto import v1
from tests.integration.parties import run_all

HOSTS = ["h0", "h1"]
# Of 90 persons every party knows some; 0 to 19 are known to the guest alone.
KNOWN = {"guest": range(60), "h0": range(20, 75), "h1": [*range(30, 90), 21]}
COMMON = sorted(set(KNOWN["guest"]) & set(KNOWN["h0"]) & set(KNOWN["h1"]))


def name_of(person: int) -> str:
    return f"Müller {person:03d}"


def write_data(directory: Path, known: dict[str, Any]) -> None:
    """Each party's persons in an order of its own."""
    rng = np.random.default_rng(5)
    values = {party: rng.normal(size=(90, 2)) for party in known}
    y = sum(part @ [1.0, -0.7] for part in values.values()) + rng.normal(scale=0.3, size=90) > 0
    for number, (party, persons) in enumerate(known.items()):
        rows = list(persons)
        frame = pd.DataFrame(values[party][rows], columns=["a", "b"])
        frame["id"] = [name_of(person) for person in rows]
        if party == "guest":
            frame["y"] = y[rows].astype(int)
        frame.sample(frac=1, random_state=number).to_csv(directory / f"{party}.csv", index=False)


def make_job(directory: Path, known: dict[str, Any] = KNOWN, **psi: Any) -> Job:
    """A job on such tables; it begins with an alignment if that has any option."""
    write_data(directory, known)
    components: dict[str, Any] = {"align": {"type": "psi", **psi}} if psi else {}
    components |= {
        "scale": {"type": "standardise"},
        "train": {
            "type": "logistic_regression",
            "epochs": 2,
            "optimiser": {"learning_rate": 0.3},
        },
    }
    return Job.model_validate(
        {
            "name": "t",
            "guest": {"name": "guest", "data": {"file": directory / "guest.csv", "label": "y"}},
            "hosts": [{"name": h, "data": {"file": directory / f"{h}.csv"}} for h in HOSTS],
            "arbiter": {"name": "arbiter"},
            "key": {"bits": 1024, "insecure_allow_1024": True},
            "components": components,
            "transport": {"connect_timeout": 20, "peer_timeout": 5},
        }
    )


@pytest.mark.parametrize("method", ["dh", "rsa"])
def test_training_on_aligned_tables_is_training_on_the_common_rows(
    tmp_path: Path, method: str
) -> None:
    (tmp_path / "by hand").mkdir()
    job = make_job(tmp_path, method=method, pad_to=64)
    run = run_all(job, tmp_path)
    assert run.errors == {}
    for party in KNOWN:
        table = Table.read(tmp_path / party / "tables" / "align.parquet")
        source = load_table(job, party)
        rows = [source.ids.index(name_of(person)) for person in COMMON]
        assert table.ids == [name_of(person) for person in COMMON]
        assert np.array_equal(table.x, source.x[rows])
        facts = run.reports[party].component("align").facts
        assert facts == {"rows": len(KNOWN[party]), "common": len(COMMON)}
    # The same training where everybody has selected the common rows by hand.
    by_hand = make_job(tmp_path / "by hand", dict.fromkeys(KNOWN, COMMON))
    expected = run_all(by_hand, tmp_path / "by hand")
    for party in KNOWN:
        gradients = run.reports[party].gradients
        assert gradients is not None
        assert gradients == expected.reports[party].gradients
    losses = run.reports["guest"].component("train").losses
    assert losses == expected.reports["guest"].component("train").losses


def test_other_rows_are_aligned_before_they_are_predicted(tmp_path: Path) -> None:
    trained = run_all(make_job(tmp_path, method="dh"), tmp_path)
    known = {"guest": range(70), "h0": range(40, 90), "h1": range(50, 55)}
    predicted = run_all(make_job(tmp_path, known, method="dh"), tmp_path / "new", models=tmp_path)
    assert trained.errors == predicted.errors == {}
    rows = pd.read_csv(tmp_path / "new" / "guest" / "train.csv")
    assert rows["id"].tolist() == [name_of(person) for person in range(50, 55)]


def test_what_hosts_receive_has_the_padded_length(tmp_path: Path) -> None:
    run = run_all(make_job(tmp_path, pad_to=100), tmp_path)
    assert run.errors == {}
    for host in HOSTS:
        records = {
            message.tag: v1.Payload.FromString(message.data).record.arrays
            for message in run.received[host]
            if message.tag.startswith("align/")
        }
        shapes = {
            tag: {name: tuple(array.shape) for name, array in arrays.items()}
            for tag, arrays in records.items()
        }
        assert shapes == {
            "align/resume": {"done": (1,)},
            "align/size": {"rows": (1,)},
            "align/ask/0": {"elements": (100, 32)},
            "align/common": {"rows": (13,)},
            "align/rows": {"digest": (32,)},
        }


def test_no_row_in_common_ends_the_job_everywhere(tmp_path: Path) -> None:
    known = {"guest": range(20), "h0": range(20, 50), "h1": range(10, 60)}
    run = run_all(make_job(tmp_path, known, method="dh"), tmp_path)
    assert run.reports == {}
    for party in known:
        assert isinstance(run.errors[party], DataError)
        assert str(run.errors[party]).startswith(f"{party}: the parties have no row in common")
    assert "no row in common" in str(run.errors["arbiter"])
