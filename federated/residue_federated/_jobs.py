"""Job files: what is trained, on whose data, on which device. Checked before any data moves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from residue_federated._components import AnyComponent
from residue_federated._schema import Address, Name, Positive, Proxy, Strict
from residue_federated.errors import JobError

__all__ = [
    "ROUND_FIELDS",
    "FileData",
    "GeneratedData",
    "Job",
    "Key",
    "Party",
    "Role",
    "SklearnData",
    "Transport",
    "load_job",
    "validated",
]

Role = Literal["guest", "host", "arbiter"]

ROUND_FIELDS = frozenset({"epochs", "trees", "rounds"})
"""What components call the number of their rounds."""


class SklearnData(Strict):
    """A data set of scikit-learn, cut by columns as the field's benchmarks cut it, or by rows.

    ``breast_cancer``: FATE's breast_hetero; the guest has the label and columns 20-29, hosts share
    columns 0-19. ``diabetes``: the guest has the label and columns 6-9, hosts share 0-5.
    ``digits``: the guest has the label, 0 to 9, and columns 32-63, hosts share 0-31. By rows, for
    horizontal training: rows are dealt out in turn, to the guest first.
    """

    sklearn: Literal["breast_cancer", "diabetes", "digits"]
    split: Literal["columns", "rows"] = "columns"


class GeneratedData(Strict):
    """Made-up data, each party's part the same wherever it is made.

    ``credit``: a bank's, with a label of two classes; the guest has a fifth of the columns, hosts
    share the others; `missing` is the share of values that are not there.
    """

    generated: Literal["credit"]
    rows: int = Field(default=100_000, ge=2, le=10_000_000)
    columns: int = Field(default=50, ge=5, le=1000)
    seed: int = Field(default=0, ge=0)
    missing: float = Field(default=0.02, ge=0, lt=1)


class FileData(Strict):
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

    @model_validator(mode="after")
    def _distinct_columns(self) -> Self:
        if self.label == self.id:
            raise ValueError(f"'{self.id}' cannot be both identifier and label")
        features = self.features or []
        for column in features:
            if column in (self.id, self.label):
                raise ValueError(f"features: '{column}' is the identifier or the label")
            if features.count(column) > 1:
                raise ValueError(f"features: '{column}' is repeated")
        return self


class Party(Strict):
    """One party: its name in certificates, where it listens, what it computes on, its data.

    proxy: the HTTP proxy through which it reaches the others, or ``direct``; without it the
    environment decides, see docs/transport.md. memory_mib: a table that needs more is kept in a
    file of the party's directory while the job runs; a quarter of the machine's memory by default.
    ray: the address of a Ray cluster whose nodes, a device each, compute on ciphertexts under
    others' keys, and on a large table's plain values. processes: how many processes of this machine
    do the latter instead; without `ray` one a core by default; 0 or 1 for none. None of it is seen
    by others.
    """

    name: Name
    address: Address | None = None
    device: str = "auto"
    proxy: Proxy | None = None
    memory_mib: Positive | None = None
    ray: str | None = Field(default=None, min_length=1)
    processes: int | None = Field(default=None, ge=0, le=256)
    data: SklearnData | GeneratedData | FileData | None = None


class Key(Strict):
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


class Transport(Strict):
    """Bounds and patience, in MiB, KiB and seconds.

    window_mib: of messages to one peer that are on their way, and of one peer's that wait to be
    taken. keep_alive: a connection that was silent for so long is asked for a sign of life, and
    closed if it gives none for as long again. compress: records, where it pays.
    """

    max_message_mib: Positive = 64.0
    window_mib: Positive = 32.0
    chunk_kib: int = Field(default=512, ge=1, le=2048)
    compress: bool = True
    keep_alive: float = Field(default=10.0, ge=1.0, le=3600.0)
    connect_timeout: Positive = 60.0
    peer_timeout: Positive = 30.0
    message_timeout: Positive = 3600.0


class Job(Strict):
    """A whole job: who takes part, and what they compute together.

    components: name -> component, in the order in which they run.
    """

    name: Name
    guest: Party
    hosts: list[Party] = Field(min_length=1)
    arbiter: Party | None = None
    key: Key = Key()
    components: dict[Name, AnyComponent] = Field(min_length=1)
    transport: Transport = Transport()

    @model_validator(mode="after")
    def _consistent_parties(self) -> Self:
        names = [party.name for party in self.parties]
        if len(set(names)) != len(names):
            raise ValueError(f"party names must differ: {', '.join(names)}")
        if self.arbiter is not None and self.arbiter.data is not None:
            raise ValueError("the arbiter never holds data: remove arbiter.data")
        for party in (self.guest, *self.hosts):
            if party.data is None:
                raise ValueError(f"{party.name} needs data")
        for host in self.hosts:
            if isinstance(host.data, FileData) and self.horizontal == (host.data.label is None):
                raise ValueError(
                    f"horizontal training needs a label at every party: set {host.name}.data.label"
                    if self.horizontal
                    else f"only the guest holds the label: remove {host.name}.data.label"
                )
        cut = "rows" if self.horizontal else "columns"
        for party in self.parties:
            if isinstance(party.data, SklearnData) and party.data.split != cut:
                raise ValueError(f"these components need {party.name}.data.split: {cut}")
        if isinstance(self.guest.data, FileData) and self.guest.data.label is None:
            raise ValueError("the guest's file needs a label column: set guest.data.label")
        return self

    @model_validator(mode="after")
    def _consistent_components(self) -> Self:
        tables: set[str] = set()
        for name, component in self.components.items():
            if component.core.needs_arbiter and self.arbiter is None:
                raise ValueError(f"components.{name}: {component.type} needs an arbiter")
            if component.core.two_parties and len(self.parties) > 2:
                raise ValueError(
                    f"components.{name}: {component.type} is between a guest and one host: remove "
                    "the arbiter and further hosts"
                )
            changes = component.gives_table or component.trains
            if self.horizontal and not component.horizontal and changes:
                raise ValueError(
                    f"components.{name}: {component.type} is for columns of common rows, not for "
                    "a horizontal job"
                )
            try:
                component.check_clients(1 + len(self.hosts))
            except ValueError as error:
                raise ValueError(f"components.{name}: {error}") from error
            if component.input is not None and component.input not in tables:
                raise ValueError(
                    f"components.{name}.input: no component '{component.input}' before it gives a "
                    "table"
                )
            if component.gives_table:
                tables.add(name)
        return self

    @model_validator(mode="after")
    def _labels_randomised(self) -> Self:
        """Where labels are promised to be private, hosts see nothing of exact ones."""
        private = [n for n, c in self.components.items() if c.type == "randomise_labels"]
        if len(private) > 1:
            raise ValueError(
                f"components.{private[1]}: labels are randomised once: what two answers together "
                "tell is the sum of their epsilons"
            )
        for name, component in self.components.items():
            if private and component.tells_labels and private[0] not in self._lineage(name):
                raise ValueError(
                    f"components.{name}: hosts would see what depends on exact labels, which "
                    f"'{private[0]}' keeps from them: let it take a table of that one's"
                )
        return self

    @model_validator(mode="after")
    def _labels_once(self) -> Self:
        """Where labels are promised to be private, each has one row."""
        for name, component in self.components.items():
            promised = component.type == "randomise_labels" or (
                component.type == "bin" and component.privacy is not None
            )
            for before in self._lineage(name) if promised else []:
                if self.components[before].repeats_rows:
                    raise ValueError(
                        f"components.{name}: '{before}' repeats rows, and what all copies of a "
                        "label tell is that many times epsilon: sample afterwards"
                    )
        return self

    def _lineage(self, name: str) -> list[str]:
        """The components whose tables became the one that component `name` takes."""
        found: list[str] = []
        before = self.input_of(name)
        while before is not None:
            found.append(before)
            before = self.input_of(before)
        return found

    @property
    def parties(self) -> list[Party]:
        """Guest, hosts, and the arbiter if there is one."""
        return [self.guest, *self.hosts, *([self.arbiter] if self.arbiter else [])]

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
        return "arbiter" if self.arbiter and name == self.arbiter.name else "host"

    def input_of(self, name: str) -> str | None:
        """The component whose table component `name` takes; None for the party's data."""
        chosen = self.components[name].input
        if chosen is not None:
            return chosen
        before = list(self.components)[: list(self.components).index(name)]
        return next((b for b in reversed(before) if self.components[b].gives_table), None)

    @property
    def horizontal(self) -> bool:
        """Whether the parties have the same columns, each its own rows and labels."""
        return any(component.horizontal for component in self.components.values())

    def may_lose(self, name: str) -> bool:
        """Whether the job can end well although the party of that name does not."""
        survivors = any(component.survives_hosts for component in self.components.values())
        return survivors and self.role(name) == "host"

    @property
    def trainer(self) -> str | None:
        """The last component that trains a model."""
        return next((n for n in reversed(self.components) if self.components[n].trains), None)

    @property
    def takes_missing_values(self) -> bool:
        """Whether all components that take the parties' own data accept missing values."""
        return all(
            component.core.accepts_missing
            for name, component in self.components.items()
            if self.input_of(name) is None
        )

    @property
    def digest(self) -> str:
        """SHA-256 of what all parties must agree on; not of devices, addresses or data places."""
        private = {"address", "device", "proxy", "data", "memory_mib", "ray", "processes"}
        exclude: dict[str, Any] = {"guest": private, "hosts": {"__all__": private}}
        if self.arbiter is not None:
            exclude["arbiter"] = private
        shared = self.model_dump(mode="json", exclude=exclude)
        return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()

    def replace(
        self,
        *,
        devices: dict[str, str] | None = None,
        key_bits: int | None = None,
        rounds: int | None = None,
        files: dict[str, Path] | None = None,
        rays: dict[str, str] | None = None,
        processes: dict[str, int] | None = None,
    ) -> Job:
        """A copy with other devices, nodes, processes or files of parties, key or rounds; checked.

        rounds: epochs or trees, of each component that has them. A key width of 1024 needs the
        job's own `insecure_allow_1024`.
        """
        data = self.model_dump()
        parties = [data["guest"], *data["hosts"], *([data["arbiter"]] if self.arbiter else [])]
        settings: dict[str, Mapping[str, Any] | None] = {
            "device": devices,
            "ray": rays,
            "processes": processes,
        }
        for field, values in settings.items():
            for name, value in (values or {}).items():
                self.party(name)
                for party in parties:
                    if party["name"] == name:
                        party[field] = value
        for name, file in (files or {}).items():
            if not isinstance(self.party(name).data, FileData):
                raise JobError(f"{name}'s data is no file that another could take the place of")
            for party in parties:
                if party["name"] == name:
                    party["data"]["file"] = file
        if key_bits is not None:
            data["key"]["bits"] = key_bits
        if rounds is not None:
            for component in data["components"].values():
                core = component.get("trainer", component)
                for field in ROUND_FIELDS & core.keys():
                    core[field] = rounds
        return validated(data, "job")


def load_job(path: Path) -> Job:
    """Read and check a job file; data files are relative to it.

    Raises `JobError` with every fault found, each with the field's path.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # of values that are none, the parser raises anything
        raise JobError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise JobError(f"{path} must be a mapping with at least name, guest, hosts and components")
    job = validated(content, path.name)
    data = job.model_dump()
    for party in (data["guest"], *data["hosts"]):
        if "file" in party["data"]:
            file = path.parent / party["data"]["file"]
            try:
                party["data"]["file"] = file.resolve()
            except (OSError, RuntimeError, ValueError) as error:
                raise JobError(f"{path.name}: {party['name']}.data.file: {error}") from error
    return validated(data, path.name)


def validated(content: dict[str, Any], where: str) -> Job:
    """The job that `content` describes; raises `JobError` with every fault found in it."""
    try:
        return Job.model_validate(content)
    except ValidationError as error:
        raise JobError(f"{where}: " + "; ".join(_faults(error))) from error


def _faults(error: ValidationError) -> list[str]:
    """One line a fault, without pydantic's own wording for the commonest."""
    lines = []
    for fault in error.errors():
        # Without the names by which pydantic tells the members of a union apart.
        path = [str(part) for part in fault["loc"] if not str(part).endswith("Data")]
        if path[:1] == ["components"]:
            del path[2:3]
        field = ".".join(path)
        text = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            text = "unknown field"
        elif fault["type"] == "missing":
            text = "missing"
        line = f"{field}: {text}" if field else text
        if line not in lines:
            lines.append(line)
    return lines
