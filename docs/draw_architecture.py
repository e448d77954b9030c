"""Draws docs/images/architecture.svg: the layers from the import contract in pyproject.toml, and the way of the data.

python docs/draw_architecture.py
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/architecture.svg"
WIDTH, ROW, GAP, MARGIN = 960, 40, 8, 20
FLOW = [
    ("backbone", "Backbone"), ("prompts", "PromptSet"), ("synthesize", "ClipSet"), ("inpaint", "PairSet"),
    ("gate", "PairSet, accepted"), ("encode", "LatentSet"), ("train", "Adapter"), ("dub", "DubSet"),
    ("evaluate", "Report"), ("register", "model version"), ("promote", "Release"),
]  # fmt: skip
COLUMNS = 4


def layers() -> list[list[str]]:
    """The packages of each layer, from the top."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[room.strip() for room in row.split("|")] for row in rows]


def box(x: float, y: float, width: float, text: str, *, below: str = "", fill: str = "#eef3f8") -> str:
    """One rounded box with a name, and a second line of smaller text."""
    middle = x + width / 2
    first = y + (ROW / 2 + 5 if not below else ROW / 2 - 2)
    parts = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{ROW}" rx="6" fill="{fill}" stroke="#5b7083"/>',
        f'<text x="{middle:.1f}" y="{first:.1f}" text-anchor="middle" font-size="14">{escape(text)}</text>',
    ]
    if below:
        parts.append(
            f'<text x="{middle:.1f}" y="{y + ROW - 7:.1f}" text-anchor="middle" font-size="11" fill="#44525e">'
            f"{escape(below)}</text>"
        )
    return "\n".join(parts)


def title(y: float, text: str) -> str:
    """A heading."""
    return f'<text x="{MARGIN}" y="{y:.1f}" font-size="16" font-weight="bold">{escape(text)}</text>'


def layer_rows(top: float) -> tuple[str, float]:
    """All layers, and where they end."""
    parts = [title(top, "Layers: a package imports only packages below it, never one beside it")]
    y = top + 14
    for rooms in [["components, pipelines, dvc.yaml (callers)"], *layers()]:
        width = (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms)
        fill = "#fff6e5" if "callers" in rooms[0] else "#eef3f8"
        parts += [box(MARGIN + place * (width + GAP), y, width, room, fill=fill) for place, room in enumerate(rooms)]
        y += ROW + GAP
    return "\n".join(parts), y


def flow_rows(top: float) -> tuple[str, float]:
    """The steps in order with what each one makes, and where they end."""
    parts = [title(top, "The way of the data: step, and the artifact it seals")]
    width = (WIDTH - 2 * MARGIN - GAP * 4 * (COLUMNS - 1)) / COLUMNS
    y = top + 14
    for place, (word, artifact) in enumerate(FLOW):
        x = MARGIN + place % COLUMNS * (width + 4 * GAP)
        y = top + 14 + place // COLUMNS * (ROW + 2 * GAP)
        parts.append(box(x, y, width, f"{place + 1}. {word}", below=artifact, fill="#eaf6ea"))
        if place + 1 < len(FLOW) and (place + 1) % COLUMNS:
            line = f'x1="{x + width:.1f}" y1="{y + ROW / 2}" x2="{x + width + 4 * GAP - 3:.1f}" y2="{y + ROW / 2}"'
            parts.append(f'<line {line} stroke="#5b7083" marker-end="url(#arrow)"/>')
    return "\n".join(parts), y + ROW + GAP


def picture() -> str:
    """The whole SVG."""
    upper, end = layer_rows(30)
    lower, end = flow_rows(end + 30)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {end + MARGIN:.0f}" font-family="sans-serif">
<defs><marker id="arrow" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="#5b7083"/></marker></defs>
<rect width="100%" height="100%" fill="white"/>
{upper}
{lower}
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(picture())
