"""ONNX Runtime sessions, opened the same way for every measuring model."""

from __future__ import annotations

from typing import Any

from dubmill.errors import InvalidArtifactError, UsageError


def onnx_session(model: bytes, *, num_threads: int, where: str) -> Any:
    """An onnxruntime.InferenceSession on the CPU.

    Raises:
        UsageError: onnxruntime is not installed.
        InvalidArtifactError: the bytes are no model.
    """
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidProtobuf
    except ImportError as error:
        raise UsageError("measuring needs onnxruntime", where=where, cure="pip install 'dubmill[real]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidProtobuf) as error:
        raise InvalidArtifactError(
            f"not a model in ONNX's form ({error})", where=where, cure="give another file"
        ) from error
