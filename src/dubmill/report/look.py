"""Shows the contents of an artifact: a Markdown page, its numbers, a contact sheet.

`log` writes these where a pipeline's interface shows them. It takes any object with `.path`, `.metadata` and
`.log_metric`, so that this module depends on no orchestrator.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from dubmill.artifacts.files import METRICS_FILE
from dubmill.artifacts.store import Artifact, RowSet
from dubmill.config.params import Params, Section
from dubmill.media.clips import Clip

CLIP_NAMES = {"ClipSet": ("clip",), "PairSet": ("original", "counterpart"), "DubSet": ("dub",)}
NUM_SHOWN = 12
STRIP_FRAMES = 6
REPORT_PAGES = ("report_light.html", "report.html")


class TaskOutput(Protocol):
    """An output of a task, as an orchestrator passes it to the step."""

    metadata: dict[str, Any]

    @property
    def path(self) -> str:
        """Where the output is written."""
        ...


class MetricsOutput(Protocol):
    """The metrics output of a task, as an orchestrator passes it to the step."""

    @property
    def path(self) -> str:
        """Where the numbers are written."""
        ...

    def log_metric(self, metric: str, value: float) -> None:
        """Shows one number."""


def markdown(artifact: Artifact) -> str:
    """Returns a page about `artifact`: kind, digest, counts, lineage, files."""
    manifest, lineage = artifact.manifest, artifact.lineage
    facts = {"digest": f"`{artifact.digest}`", "written by step": f"`{lineage.step}`", "licence": lineage.licence}
    facts |= {f"input {name}": f"`{digest[:12]}`" for name, digest in lineage.inputs.items()}
    facts |= {"source of the pairs": lineage.pair_source, "consent": lineage.consent}
    facts |= {name: str(value) for name, value in counts(artifact).items()}
    sections = [f"# {manifest.kind}", _table(("", ""), facts.items())]
    if artifact.info:
        sections += ["## Facts", _table(("name", "value"), _leaves(artifact.info))]
    sections += ["## Parameters", _table(("name", "value"), _leaves(lineage.params))]
    sizes = ((name, f"{(artifact.path / name).stat().st_size:,} bytes") for name in sorted(manifest.files)[:40])
    sections += [f"## Files ({len(manifest.files)})", _table(("file", "size"), sizes)]
    return "\n\n".join(sections) + "\n"


def counts(artifact: Artifact) -> dict[str, int]:
    """Returns the number of rows of a set: all, by split, and accepted ones of gated pairs."""
    if not isinstance(artifact, RowSet):
        return {}
    rows = artifact.rows
    splits = sorted({row.split for row in rows if hasattr(row, "split")})
    found = {"rows": len(rows)} | {f"rows of {name}": len(artifact.split(name)) for name in splits}
    if artifact.info.get("gated"):
        found["rows accepted"] = sum(row.accepted for row in rows)
    return found


def figures(artifact: Artifact) -> dict[str, float]:
    """Returns every finite number of an artifact: counts, its info, and its metrics.json."""
    numbers = {name.replace(" ", "_"): float(value) for name, value in counts(artifact).items()}
    numbers |= dict(_numbers(artifact.info))
    if not artifact.has_file(METRICS_FILE):
        return numbers
    return numbers | dict(_numbers(json.loads(artifact.file(METRICS_FILE).read_bytes())))


def log(artifact: Artifact, output: TaskOutput, metrics: MetricsOutput, summary: TaskOutput) -> None:
    """Shows `artifact` in a pipeline's interface: its numbers, its page, and its digest as metadata."""
    output.metadata.update(kind=artifact.manifest.kind, digest=artifact.digest, step=artifact.lineage.step)
    shown = figures(artifact)
    for name, value in shown.items():
        metrics.log_metric(name, value)
    Path(metrics.path).write_text(json.dumps(shown))  # KFP's cache misses where the file of an output is missing
    Path(summary.path).write_text(markdown(artifact))


def write_page(artifact: Artifact, out: Path | str) -> None:
    """Writes one HTML file about `artifact`: its report page, its gate page, or a contact sheet."""
    pages = [artifact.file(name) for name in (*REPORT_PAGES, "gate.html") if artifact.has_file(name)]
    if pages:
        Path(out).write_bytes(pages[0].read_bytes())
    else:
        Path(out).write_text(clip_gallery(artifact))


def clip_gallery(artifact: Artifact, num_rows: int = NUM_SHOWN) -> str:
    """Returns HTML with a few frames and the words of the first clips of a set."""
    names = CLIP_NAMES.get(artifact.manifest.kind, ())
    cells = _cells(artifact, names, num_rows) if isinstance(artifact, RowSet) else []
    title = f"{artifact.manifest.kind} {artifact.digest[:12]}"
    style = "body{font:14px sans-serif;margin:1em}figure{margin:0 0 1em}img{image-rendering:pixelated;max-width:100%}"
    return f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{style}</style><h1>{title}</h1>" + "".join(
        cells
    )


def _cells(artifact: RowSet[Any], names: Sequence[str], num_rows: int) -> list[str]:
    rows = [row for row in artifact.rows if getattr(row, "has_clip", True)][:num_rows]
    return [_cell(artifact, row.id, name, _words(row)) for row in rows for name in names]


def _cell(artifact: RowSet[Any], row_id: str, name: str, words: str) -> str:
    image = base64.b64encode(strip_png(artifact.clip(row_id, name))).decode()
    caption = html.escape(f"{row_id} · {name} · {words}")
    return f'<figure><img src="data:image/png;base64,{image}" alt=""><figcaption>{caption}</figcaption></figure>'


def strip_png(clip: Clip, num_frames: int = STRIP_FRAMES, width: int = 128) -> bytes:
    """Returns evenly spaced frames of `clip` side by side as a PNG, each about `width` pixels wide."""
    import numpy as np
    from PIL import Image

    chosen = clip.frames_FHWC[np.linspace(0, clip.num_frames - 1, min(num_frames, clip.num_frames)).astype(int)]
    strip = Image.fromarray(np.concatenate(list(chosen), axis=1))
    scale = width / chosen.shape[2]
    stream = io.BytesIO()
    strip.resize((round(strip.width * scale), round(strip.height * scale)), Image.Resampling.NEAREST).save(
        stream, "png"
    )
    return stream.getvalue()


def _words(row: Any) -> str:
    row = getattr(row, "prompt", row)
    lines = [getattr(row, name, None) for name in ("first", "second", "original", "counterpart", "line")]
    return " / ".join(f"{line.language}: {line.text}" for line in lines if line is not None)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(inner)


def _numbers(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _numbers(inner, f"{prefix}{name}.")
        elif isinstance(inner, int | float) and not isinstance(inner, bool) and math.isfinite(inner):
            yield f"{prefix}{name}", float(inner)


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows if row[-1]]
    return "\n".join(lines)


def log_version(registered: Path, output: TaskOutput, summary: TaskOutput) -> None:
    """Shows the model version in `registered`: model_version.json, or the folder that contains it."""
    path = registered / "model_version.json" if registered.is_dir() else registered
    version = json.loads(path.read_bytes())
    output.metadata.update({name: str(value) for name, value in version.items()})
    Path(summary.path).write_text("# Model version\n\n" + _table(("", ""), _leaves(version)) + "\n")


def params_markdown(params: Params) -> str:
    """Returns every section's values with bounds and meaning, as Markdown."""
    pages = [f"# Parameters\n\n{PARAMS_HEAD}"]
    for word, field in type(params).model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, Section)
        rows = list(_fields(section, getattr(params, word)))
        pages.append(f"## {word}\n\n{section.__doc__}\n\n" + _table(("name", "value", "type", "meaning"), rows))
    return "\n\n".join(pages) + "\n"


PARAMS_HEAD = (
    "The values are in `params.yaml`; an overlay lists only the values that differ. This page is the output of"
    " `dubmill params --markdown`."
)
TYPE_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >=", "max_length": "length <="}


def _fields(section: type[Section], value: Section, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        inner = getattr(value, name)
        if isinstance(inner, Section):
            yield from _fields(type(inner), inner, f"{prefix}{name}.")
        elif isinstance(inner, list) and any(isinstance(one, Section) for one in inner):
            for at, one in enumerate(inner):
                yield from _fields(type(one), one, f"{prefix}{name}[{at}].")
        else:
            meaning = field.description or MEANINGS.get(name, name.replace("_", " "))
            yield f"`{prefix}{name}`", f"`{json.dumps(inner)}`", _type_text(field), meaning


MEANINGS = {"seed": "seed of the random numbers"}


def _type_text(field: FieldInfo) -> str:
    """Returns the type and bounds of a field, in words."""
    kind, bounds = _kind(field.annotation), _bounds(field.metadata)
    return f"{kind}, {bounds}" if bounds.startswith("length") else f"{kind} {bounds}".strip()


def _kind(kind: Any) -> str:  # noqa: ANN401, of types
    """Returns a type in words: `number >= 0 or none`."""
    arms = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, arms))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_kind, arms))
    if get_origin(kind) is Annotated:
        rules = [rule for given in arms[1:] for rule in getattr(given, "metadata", [given])]
        return " ".join([_kind(arms[0]), _bounds(rules)]).strip()
    if get_origin(kind) is list:
        return f"list of {_kind(arms[0])}"
    if get_origin(kind) is dict:
        return f"map of {_kind(arms[0])} to {_kind(arms[1])}"
    return TYPE_NAMES.get(kind, "entries")


def _bounds(rules: Sequence[Any]) -> str:
    return ", ".join(
        f"{sign} {getattr(rule, key)}" for rule in rules for key, sign in BOUNDS.items() if hasattr(rule, key)
    )
