"""The pictures of docs/card.md, drawn from simulations and configurations.

``python -m residue_sim.pictures`` draws them from the data that lies beside them in docs/pictures,
``--measure`` takes that data anew, ``--check`` says what differs.
"""

from __future__ import annotations

from residue_sim.pictures._files import PICTURES, Finding, check, draw, measure

__all__ = ["PICTURES", "Finding", "check", "draw", "measure"]
