"""Nothing of it is used here; its tables of all models take a type checker seconds to read."""

from typing import Any

def __getattr__(name: str) -> Any: ...  # names that only other libraries use
