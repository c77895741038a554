"""A small writer of SVG: shapes with classes, whose colours follow the reader's light or dark."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

__all__ = ["Svg"]

# Each class in light and in dark. Named parts of a machine first, then inks.
_COLOURS = {
    "ground": ("#ffffff", "#0d1117"),
    "panel": ("#f6f8fa", "#161b22"),
    "box": ("#ffffff", "#21262d"),
    "ink": ("#1f2328", "#e6edf3"),
    "soft": ("#59636e", "#9198a1"),
    "edge": ("#8c959f", "#6e7681"),
    "grid": ("#e4e8ec", "#262c34"),
    "accent": ("#0969da", "#4493f8"),
    "busy": ("#009e73", "#00b386"),
    "waiting": ("#d55e00", "#e8772e"),
    "filling": ("#56b4e9", "#56b4e9"),
    "idle": ("#c4cad1", "#4a525c"),
}
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"


class Svg:
    """A picture of `width` x `height` units, described for those who cannot see it.

    A class of `fill` or `stroke` is one of the palette: ground, panel, box, ink, soft, edge, grid,
    accent, busy, waiting, filling, idle. Anything else is taken as a colour.
    """

    def __init__(self, width: float, height: float, title: str, description: str) -> None:
        self._size = f"{_number(width)} {_number(height)}"
        self._about = [f"<title>{escape(title)}</title>", f"<desc>{escape(description)}</desc>"]
        self._body: list[str] = []
        self._used: set[tuple[str, str]] = set()
        self.rect(0, 0, width, height, fill="ground", radius=10)

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "none",
        stroke: str = "none",
        radius: float = 0,
        tip: str = "",
    ) -> None:
        """A rectangle; `tip` is shown where the picture is opened by itself."""
        facts = {"x": x, "y": y, "width": width, "height": height}
        self._shape("rect", {**facts, "rx": radius} if radius else facts, fill, stroke, tip)

    def line(self, x1: float, y1: float, x2: float, y2: float, *, stroke: str = "edge",
             width: float = 1, dash: str = "", arrow: bool = False) -> None:  # fmt: skip
        """A straight line, with an arrow head at its second end if wanted."""
        self.path([(x1, y1), (x2, y2)], stroke=stroke, width=width, dash=dash, arrow=arrow)

    def path(
        self,
        points: list[tuple[float, float]],
        *,
        fill: str = "none",
        stroke: str = "edge",
        width: float = 1,
        dash: str = "",
        arrow: bool = False,
        close: bool = False,
    ) -> None:
        """Straight lines from point to point, filled where `fill` is given."""
        d = "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points) + "Z" * close
        facts: dict[str, float | str] = {"d": d}
        if stroke != "none" and width != 1:
            facts["stroke-width"] = width
        if dash:
            facts["stroke-dasharray"] = dash
        self._shape("path", facts, fill, stroke)
        if arrow:
            (x1, y1), (x2, y2) = points[-2:]
            length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
            u, v = (x2 - x1) / length, (y2 - y1) / length
            head = [(x2, y2)]
            head += [(x2 - 7 * u - side * v, y2 - 7 * v + side * u) for side in (3.5, -3.5)]
            self.path(head, fill=stroke, stroke="none", close=True)

    def circle(self, x: float, y: float, radius: float, *, fill: str, stroke: str = "none") -> None:
        """A disc."""
        self._shape("circle", {"cx": x, "cy": y, "r": radius}, fill, stroke)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        fill: str = "ink",
        anchor: str = "start",
        bold: bool = False,
        turned: bool = False,
    ) -> None:
        """A line of text whose base line starts (or has its middle or end) at ``(x, y)``."""
        facts: dict[str, float | str] = {"x": x, "y": y, "font-size": size}
        if anchor != "start":
            facts["text-anchor"] = anchor
        if bold:
            facts["font-weight"] = 600
        if turned:
            facts["transform"] = f"rotate(-90 {_number(x)} {_number(y)})"
        self._body.append(f"<text{self._facts(facts, fill, 'none')}>{escape(text)}</text>")

    def heading(self, title: str, subtitle: str) -> None:
        """The picture's title and what it shows, in the upper left corner."""
        self.text(28, 40, title, size=19, bold=True)
        self.text(28, 62, subtitle, size=13, fill="soft")

    def legend(self, x: float, y: float, entries: list[tuple[str, str]]) -> None:
        """Colours with their names in a row."""
        for fill, name in entries:
            self.rect(x, y - 10, 12, 12, fill=fill, radius=3)
            self.text(x + 18, y, name, size=12.5, fill="soft")
            x += 44 + 6.4 * len(name)

    def __str__(self) -> str:
        def rules(which: int) -> str:
            return "".join(
                f".{prefix}-{name}{{{what}:{_COLOURS[name][which]}}}"
                for prefix, name in sorted(self._used)
                for what in ("fill" if prefix == "f" else "stroke",)
            )

        style = (
            f"text{{font-family:{_FONT}}}{rules(0)}@media (prefers-color-scheme:dark){{{rules(1)}}}"
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._size}" role="img">',
                *self._about,
                f"<style>{style}</style>",
                *self._body,
                "</svg>\n",
            ]
        )

    def _shape(
        self, name: str, facts: dict[str, float] | dict[str, float | str], fill: str, stroke: str,
        tip: str = "",
    ) -> None:  # fmt: skip
        end = f"><title>{escape(tip)}</title></{name}>" if tip else "/>"
        self._body.append(f"<{name}{self._facts(facts, fill, stroke)}{end}")

    def _facts(
        self, facts: dict[str, float] | dict[str, float | str], fill: str, stroke: str
    ) -> str:
        classes, told = [], dict(facts)
        for prefix, what, colour in (("f", "fill", fill), ("s", "stroke", stroke)):
            if colour in _COLOURS:
                classes.append(f"{prefix}-{colour}")
                self._used.add((prefix, colour))
            elif (what, colour) != ("stroke", "none"):
                told[what] = colour
        written = "".join(
            f" {key}={quoteattr(value if isinstance(value, str) else _number(value))}"
            for key, value in told.items()
        )
        return (f' class="{" ".join(classes)}"' if classes else "") + written


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
