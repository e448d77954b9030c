"""What the library uses of num2words, which has no types and imports all its languages."""

from collections.abc import Mapping
from typing import Any

CONVERTER_CLASSES: Mapping[str, Any]

def num2words(number: float | str, ordinal: bool = ..., lang: str = ..., to: str = ...) -> str: ...
