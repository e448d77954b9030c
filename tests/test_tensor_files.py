"""Rows of several safetensors files in one."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from dubmill.artifacts.files import write_atomically
from dubmill.artifacts.tensor_files import merge_rows, num_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_picked_rows_are_merged_in_order_and_may_repeat(tmp_path, dtype):
    values = (torch.arange(30).reshape(5, 2, 3) % 7).to(dtype)
    first, second, merged = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "merged"))
    save_file({"a": values[:2].contiguous(), "b": torch.zeros(1)}, first)
    save_file({"a": values[2:].contiguous()}, second)
    places = [(second, 2), (first, 0), (first, 0), (second, 0)]
    write_atomically(merged, merge_rows({"a": places, "b": [(first, 0)]}))
    tensors = load_file(merged)
    assert torch.equal(tensors["a"], values[[4, 0, 0, 2]])
    assert tensors["a"].dtype == dtype
    assert torch.equal(tensors["b"], torch.zeros(1))
    assert (num_rows(first, "a"), num_rows(second, "a")) == (2, 3)


def test_no_more_than_a_row_is_in_memory_at_once(tmp_path):
    save_file({"a": torch.zeros(64, 256)}, tmp_path / "a")
    header, *rows = merge_rows({"a": [(tmp_path / "a", row) for row in range(64)]})
    assert {len(row) for row in rows} == {4 * 256}
    assert len(header) % 8 == 0
