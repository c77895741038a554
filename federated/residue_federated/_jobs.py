"""Job files: what is trained, on whose data, on which device. Checked before any data moves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from residue_federated.errors import JobError

__all__ = [
    "EarlyStop",
    "FileData",
    "Job",
    "Key",
    "Optimiser",
    "Party",
    "Precision",
    "Role",
    "SklearnData",
    "Training",
    "Transport",
    "load_job",
]

Role = Literal["guest", "host", "arbiter"]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SklearnData(_Strict):
    """A data set of scikit-learn, cut by columns as the field's benchmarks cut it.

    ``breast_cancer``: FATE's breast_hetero; the guest has the label and columns 20-29, hosts share
    columns 0-19. ``diabetes``: the guest has the label and columns 6-9, hosts share 0-5.
    """

    sklearn: Literal["breast_cancer", "diabetes"]


class FileData(_Strict):
    """A CSV or Parquet file with an identifier column; the guest's has a label column as well."""

    file: Path
    id: str = "id"
    label: str | None = None
    features: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _known_format(self) -> Self:
        if self.file.suffix not in (".csv", ".parquet"):
            raise ValueError(f"{self.file.name}: expected a .csv or .parquet file")
        return self


class Party(_Strict):
    """One party: its name in certificates, where it listens, what it computes on, its data."""

    name: _Name
    address: str | None = Field(default=None, pattern=r"^[^\s:]+:\d{1,5}$")
    device: str = "auto"
    data: SklearnData | FileData | None = None


class Key(_Strict):
    """The key pair that the arbiter makes."""

    bits: Literal[1024, 2048, 3072, 4096] = 2048
    insecure_allow_1024: bool = False

    @property
    def insecure(self) -> bool:
        """Below the 112-bit security of 2048 bits."""
        return self.bits < 2048

    @model_validator(mode="after")
    def _opted_in(self) -> Self:
        if self.insecure and not self.insecure_allow_1024:
            raise ValueError("1024-bit keys are insecure: set insecure_allow_1024: true to use one")
        return self


class Optimiser(_Strict):
    """How a party turns a gradient into new weights; each party runs it on its own weights."""

    name: Literal["sgd", "adam"] = "sgd"
    learning_rate: _Positive = 0.1
    momentum: float = Field(default=0.0, ge=0, lt=1)


class EarlyStop(_Strict):
    """Stop after the epoch whose loss differs from the one before by less than `tolerance`."""

    tolerance: _Positive = 1e-4


class Training(_Strict):
    """The algorithm's parameters. ``batch_size: null`` is full batch."""

    epochs: int = Field(default=10, ge=1, le=100_000)
    batch_size: int | None = Field(default=None, ge=2)
    shuffle_seed: int | None = Field(default=None, ge=0)
    optimiser: Optimiser = Optimiser()
    l2: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    intercept: bool = True
    standardise: bool = True
    early_stop: EarlyStop | None = None


class Precision(_Strict):
    """Fixed-point widths. A device's work grows with ``ceil(feature_bits / 4)``.

    feature_bits: signed width of a feature, each column scaled to use all of it.
    residual_bits, integer_bits: fractional and integer bits of one party's share of a residual.
    pack: gradients in one ciphertext on the way to the arbiter.
    """

    feature_bits: int = Field(default=12, ge=4, le=24)
    residual_bits: int = Field(default=16, ge=8, le=32)
    integer_bits: int = Field(default=6, ge=2, le=16)
    pack: int = Field(default=4, ge=1, le=16)


class Transport(_Strict):
    """Bounds and patience, in MiB, KiB and seconds."""

    max_message_mib: _Positive = 64.0
    chunk_kib: int = Field(default=512, ge=1, le=2048)
    connect_timeout: _Positive = 60.0
    peer_timeout: _Positive = 30.0
    message_timeout: _Positive = 3600.0


class Job(_Strict):
    """A whole job."""

    name: _Name
    algorithm: Literal["logistic_regression", "linear_regression"]
    guest: Party
    hosts: list[Party] = Field(min_length=1)
    arbiter: Party
    key: Key = Key()
    training: Training = Training()
    precision: Precision = Precision()
    transport: Transport = Transport()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [party.name for party in self.parties]
        if len(set(names)) != len(names):
            raise ValueError(f"party names must differ: {', '.join(names)}")
        if self.arbiter.data is not None:
            raise ValueError("the arbiter never holds data: remove arbiter.data")
        for party in (self.guest, *self.hosts):
            if party.data is None:
                raise ValueError(f"{party.name} needs data")
        for host in self.hosts:
            if isinstance(host.data, FileData) and host.data.label is not None:
                raise ValueError(f"only the guest holds the label: remove {host.name}.data.label")
        if isinstance(self.guest.data, FileData) and self.guest.data.label is None:
            raise ValueError("the guest's file needs a label column: set guest.data.label")
        return self

    @property
    def parties(self) -> list[Party]:
        """Guest, hosts, arbiter."""
        return [self.guest, *self.hosts, self.arbiter]

    def party(self, name: str) -> Party:
        """The party of that name. Raises `JobError` if there is none."""
        for party in self.parties:
            if party.name == name:
                return party
        names = ", ".join(party.name for party in self.parties)
        raise JobError(f"the job has no party '{name}'; it has {names}")

    def role(self, name: str) -> Role:
        """What the party of that name does in the job."""
        self.party(name)
        if name == self.guest.name:
            return "guest"
        return "arbiter" if name == self.arbiter.name else "host"

    @property
    def digest(self) -> str:
        """SHA-256 of what all parties must agree on; not of devices, addresses or data places."""
        private = {"address", "device", "data"}
        shared = self.model_dump(
            mode="json",
            exclude={"guest": private, "hosts": {"__all__": private}, "arbiter": private},
        )
        return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()

    def replace(
        self,
        *,
        devices: dict[str, str] | None = None,
        key_bits: int | None = None,
        epochs: int | None = None,
    ) -> Job:
        """A copy with another device a party, key width or number of epochs; checked again.

        A key width of 1024 needs the job's own `insecure_allow_1024`.
        """
        data = self.model_dump()
        for name, device in (devices or {}).items():
            self.party(name)
            for party in (data["guest"], *data["hosts"], data["arbiter"]):
                if party["name"] == name:
                    party["device"] = device
        if key_bits is not None:
            data["key"]["bits"] = key_bits
        if epochs is not None:
            data["training"]["epochs"] = epochs
        return _validated(data, "job")


def load_job(path: Path) -> Job:
    """Read and check a job file; data files are relative to it.

    Raises `JobError` with every fault found, each with the field's path.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise JobError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise JobError(f"{path} must be a mapping with at least name, algorithm, guest and hosts")
    job = _validated(content, path.name)
    data = job.model_dump()
    for party in (data["guest"], *data["hosts"]):
        if "file" in party["data"]:
            party["data"]["file"] = (path.parent / party["data"]["file"]).resolve()
    return _validated(data, path.name)


def _validated(content: dict[str, Any], where: str) -> Job:
    try:
        return Job.model_validate(content)
    except ValidationError as error:
        raise JobError(f"{where}: " + "; ".join(_faults(error))) from error


def _faults(error: ValidationError) -> list[str]:
    """One line a fault, without pydantic's own wording for the commonest."""
    lines = []
    for fault in error.errors():
        field = ".".join(str(part) for part in fault["loc"])
        field = field.replace(".SklearnData", "").replace(".FileData", "")
        text = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            text = "unknown field"
        elif fault["type"] == "missing":
            text = "missing"
        line = f"{field}: {text}" if field else text
        if line not in lines:
            lines.append(line)
    return lines
