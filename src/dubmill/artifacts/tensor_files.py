"""Rows of many safetensors files put together in one, without holding more than a row in memory.

The format (github.com/huggingface/safetensors): the header's length as eight little-endian bytes, the header as JSON
(name -> dtype, shape, offsets behind the header), then the numbers of all tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RowPlace = tuple[Path, int]
"""A file and the number of a row in it."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in a safetensors file."""

    dtype: str  # as the format names it, such as F32
    shape: tuple[int, ...]
    start: int  # of its first byte in the file
    num_bytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, which is an index of the first axis."""
        return self.num_bytes // self.shape[0]


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Returns where the tensors of a safetensors file lie, by name."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return {
        name: StoredTensor(
            entry["dtype"],
            tuple(entry["shape"]),
            8 + length + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def merge_rows(columns: Mapping[str, Sequence[RowPlace]]) -> Iterator[bytes]:
    """Yields the bytes of a safetensors file whose tensor `name` has the rows `columns[name]`, in that order.

    The rows of a column lie in tensors of the same name, whose shapes differ in their first axis only.
    """
    stored = {path: stored_tensors(path) for places in columns.values() for path, _ in places}
    header, end = {}, 0
    for name, places in columns.items():
        first = stored[places[0][0]][name]
        assert all(stored[path][name].shape[1:] == first.shape[1:] for path, _ in places)
        begin, end = end, end + len(places) * first.row_bytes
        header[name] = {"dtype": first.dtype, "shape": [len(places), *first.shape[1:]], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the numbers to eight bytes
    yield len(text).to_bytes(8, "little") + text
    for name, places in columns.items():
        for path, row in places:
            tensor = stored[path][name]
            with path.open("rb") as stream:
                stream.seek(tensor.start + row * tensor.row_bytes)
                yield stream.read(tensor.row_bytes)


def num_rows(path: Path, name: str) -> int:
    """Returns the length of the first axis of one tensor in a file."""
    return stored_tensors(path)[name].shape[0]
