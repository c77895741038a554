"""Messages between parties: at least once on the line, once and in order at the receiver."""

from __future__ import annotations

from residue_federated.transport._connection import printable
from residue_federated.transport._door import Door
from residue_federated.transport._endpoint import Endpoint, Traffic
from residue_federated.transport._lives import Lives
from residue_federated.transport._messages import Gate, Message

__all__ = ["Door", "Endpoint", "Gate", "Lives", "Message", "Traffic", "printable"]
