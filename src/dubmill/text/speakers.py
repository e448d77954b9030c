"""How a caption names the person who speaks."""

from __future__ import annotations

import re

ANYBODY = "A person"
_NOUN = re.compile(r"\b(woman|man|girl|boy)\b", re.IGNORECASE)


def speaker_of(description: str) -> str:
    """Returns `The woman` of `A young woman with a shaved head`, by the first such noun; `A person` where there is none."""
    found = _NOUN.search(description)
    return f"The {found[1].lower()}" if found else ANYBODY
