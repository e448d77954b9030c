"""Merges params.yaml with overlays (files, or presets by name); an overlay lists only the values that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dubmill.errors import InvalidParamsError

FREE_FORM = ("learning_rate_groups", "max_regression", "min_shares")
PRESETS = Path(__file__).parent / "presets"
PARAMS_FILE = Path("params.yaml")
SHIPPED_PARAMS = Path(__file__).parent / "params.yaml"  # in the repository a link to the file at its root
EXTENDS = "extends"  # an overlay may name the preset that it extends


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any], where: str = "overlay") -> dict[str, Any]:
    """Returns `base` with the values of `overlay` in place; free-form maps (rates, shares) are replaced whole.

    Raises:
        InvalidParamsError: the overlay has a name that the base does not have.
    """
    merged = dict(base)
    for name, value in overlay.items():
        if name not in base:
            raise InvalidParamsError(f"{name!r} is not a parameter", where=where, cure=f"use one of {', '.join(base)}")
        nested = isinstance(value, Mapping) and isinstance(base[name], Mapping) and name not in FREE_FORM
        merged[name] = merge(base[name], value, f"{where}.{name}") if nested else value
    return merged


def preset_names() -> list[str]:
    """Returns the presets that ship."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset(name: str) -> Path:
    """Returns the file of a preset.

    Raises:
        InvalidParamsError: there is none of that name.
    """
    if name not in preset_names():
        raise InvalidParamsError(
            f"{name!r} is no preset", cure=f"use one of {', '.join(preset_names())}, or a file's path"
        )
    return PRESETS / f"{name}.yaml"


def preset_values(name: str, section: str) -> tuple[str, dict[str, Any]]:
    """Returns the first line of a preset, which describes it, and one of its sections merged over that of the preset it extends."""
    own = read_yaml(preset(name))
    extended = preset_values(own[EXTENDS], section)[1] if EXTENDS in own else {}
    return preset(name).read_text().splitlines()[0].removeprefix("# "), extended | own.get(section, {})


def lay_over(values: Mapping[str, Any], overlay: Path) -> dict[str, Any]:
    """Returns `values` with an overlay (a file or the name of a preset) merged over them, after the preset that it extends.

    Raises:
        InvalidParamsError: there is no such file or preset, or it has a name that `values` does not have.
    """
    own = read_yaml(overlay if overlay.is_file() or overlay.suffix in (".yaml", ".yml") else preset(str(overlay)))
    extended = own.pop(EXTENDS, None)
    base = values if extended is None else lay_over(values, preset(extended))
    return merge(base, own, str(overlay))


def layers_of(path: Path, overlays: Sequence[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the values of `path` and those after each overlay, with the names of the files.

    Outside of the project's folder, where there is no params.yaml, the values that ship with the package are taken.

    Raises:
        InvalidParamsError: see `lay_over` and `read_yaml`.
    """
    source = SHIPPED_PARAMS if path == PARAMS_FILE and not path.is_file() else path
    layers = [(str(path), read_yaml(source))]
    for overlay in overlays:
        layers.append((str(overlay), lay_over(layers[-1][1], overlay)))
    return layers


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file.

    Raises:
        InvalidParamsError: no file, no YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise InvalidParamsError(
            "there is no such file", where=str(path), cure="run in the project's folder or pass --params"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidParamsError(
            f"not readable as YAML ({str(error).splitlines()[0]})", where=str(path), cure="correct the file"
        ) from error
    if not isinstance(data, dict):
        raise InvalidParamsError("holds no sections", where=str(path), cure="start from the committed params.yaml")
    return data
