"""``python -m residue_federated party``: how ``residue fl run`` starts its children."""

from __future__ import annotations

from residue_federated._cli import app

app()
