"""Bases and field types of job files."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "MOST_PORT",
    "Address",
    "ComponentConfig",
    "Name",
    "Positive",
    "Proxy",
    "Share",
    "Strict",
]

MOST_PORT = 65535
_MOST_LABEL = 63
"""Characters between two dots of a host's name."""


def _reachable(text: str) -> str:
    """Raise `ValueError` unless ``host:port``, at the end of the text, can be one."""
    host, _, port = text.rpartition("/")[2].partition(":")
    if port and int(port) > MOST_PORT:
        raise ValueError(f"port {port} is above {MOST_PORT}")
    if not all(0 < len(label) <= _MOST_LABEL for label in host.removesuffix(".").split(".")):
        raise ValueError(f"'{host}' is no name of a host")
    return text


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Address = Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$"), AfterValidator(_reachable)]
Proxy = Annotated[
    str, Field(pattern=r"^(direct|http://[^\s/@:]+:\d{1,5})$"), AfterValidator(_reachable)
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


class Strict(BaseModel):
    """Unknown fields are errors; values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ComponentConfig(Strict):
    """What the configurations of all components share.

    input: the component whose table this one takes; by default the nearest before it that gives
    one, or else the party's data.
    """

    needs_arbiter: ClassVar[bool] = False
    """Whether a third party holds the key."""
    two_parties: ClassVar[bool] = False
    """Whether it is between the guest and one host, with nobody else in the job."""
    gives_table: ClassVar[bool] = False
    """Whether it ends with a new table at guest and hosts."""
    accepts_missing: ClassVar[bool] = False
    """Whether its table may have missing values."""
    trains: ClassVar[bool] = False
    """Whether it ends with a model, and its module offers a `twin`."""
    repeats: ClassVar[bool] = True
    """Whether two runs decrypt the same integers, so that devices can be compared by them."""
    horizontal: ClassVar[bool] = False
    """Whether the parties have the same columns, each its own rows and labels."""

    why_no_privacy: ClassVar[str] = "it adds no noise to anything"
    """Of a component without the field `privacy`, for who asks for it."""

    input: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_empty_promise(cls, content: Any) -> Any:
        asked = isinstance(content, dict) and content.get("privacy") is not None
        if asked and "privacy" not in cls.model_fields:
            raise ValueError(
                f"no differential privacy here: {cls.why_no_privacy} (docs/algorithms/privacy.md)"
            )
        return content

    @property
    def core(self) -> ComponentConfig:
        """Itself, or the component that it wraps, whose needs are its own."""
        return self

    @property
    def most_rounds(self) -> int:
        """Epochs or trees at most; 1 where there is nothing to repeat."""
        return 1

    @property
    def tells_labels(self) -> bool:
        """Whether what hosts see of it depends on the guest's exact labels."""
        return self.trains

    @property
    def repeats_rows(self) -> bool:
        """Whether a row of its table may come from the same row as another."""
        return False

    @property
    def survives_hosts(self) -> bool:
        """Whether it goes on without hosts that are lost."""
        return False

    def check_clients(self, clients: int) -> None:
        """Raise `ValueError` unless so many guests and hosts together suit the settings."""
