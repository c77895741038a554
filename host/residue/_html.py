"""Self-contained HTML pages: one style and one way to draw charts, light, dark and printed."""

from __future__ import annotations

import importlib.resources
from typing import Any

from residue.errors import ResidueError

__all__ = ["render", "require"]

_BASE = "base.html.j2"


def require(error: type[ResidueError]) -> None:
    """Raise `error` unless what `render` needs is installed: before anything takes time."""
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as missing:
        raise error("the page needs plotly and jinja2: pip install 'residue[profile]'") from missing


def render(package: str, template: str, error: type[ResidueError], **values: Any) -> str:
    """A page from a template that extends ``base.html.j2``; its charts' script lies in it.

    Args:
        package: that the template is a file of.
        template: its name.
        error: what to raise.
        values: for the template; all that it names must be there.

    Raises:
        error: plotly or jinja2 is not installed.
    """
    require(error)
    import jinja2
    from plotly.offline import get_plotlyjs

    sources = {
        _BASE: importlib.resources.files("residue").joinpath(_BASE).read_text("utf-8"),
        template: importlib.resources.files(package).joinpath(template).read_text("utf-8"),
    }
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.DictLoader(sources),
    )
    return environment.get_template(template).render(plotly=get_plotlyjs(), **values)
