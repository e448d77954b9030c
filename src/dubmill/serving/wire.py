"""Converts requests and results between KServe's V1 (JSON) and V2 (tensor) protocols and the dubbing service.

V1  {"instances": [{"video": base64, "language": "es", "text": "uno tres seis", "consent": "…", "seed": 1}]}
V2  inputs of the same names: video as UINT8 [N] or as BYTES [1] (base64, or the file's bytes), the texts as BYTES [1],
    seed as any integer type [1]; without a seed it is 0.
In both, `tone_map` converts HDR to standard range, `label` burns in a visible label, `face` says which of several faces is dubbed (left, right, a number
counted from the left, or all), and `speaker` describes who speaks (a woman, a man, a girl, a boy), as captions of the
training did. `adapter` is the name of one of `/v1/adapters`.
"""

from __future__ import annotations

import base64
import binascii
import struct
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dubmill.errors import UsageError
from dubmill.serving.fields import EXAMPLE, DubFields, parse_fields

if TYPE_CHECKING:
    from kserve import InferRequest, InferResponse

MAX_INSTANCES = 4


@dataclass(frozen=True)
class TensorType:
    """Name, datatype and shape of a V2 tensor; -1 is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...] = (1,)

    def to_dict(self) -> dict[str, Any]:
        """The form of KServe's model metadata."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


INPUTS = (
    TensorType("video", "UINT8", (-1,)),
    TensorType("language", "BYTES"),
    TensorType("text", "BYTES"),
    TensorType("consent", "BYTES"),
    TensorType("seed", "INT64"),
    TensorType("face", "BYTES"),
    TensorType("tone_map", "BOOL"),
    TensorType("label", "BOOL"),
    TensorType("speaker", "BYTES"),
    TensorType("adapter", "BYTES"),
)
OUTPUTS = (
    TensorType("video", "UINT8", (-1,)),
    TensorType("seconds", "FP64"),
    TensorType("seed", "INT64"),
    TensorType("model_version", "BYTES"),
    TensorType("machine_generated", "BOOL"),
    TensorType("notes", "BYTES", (-1,)),
)


@dataclass(frozen=True)
class DubResult:
    """A dubbed MP4 marked as machine-generated; `notes` say what was changed in the given clip, and what was kept."""

    mp4: bytes
    seconds: float
    seed: int
    model_version: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """A request in any protocol: its fields and the bytes of its video."""

    fields: DubFields
    video: bytes


def parse_submission(fields: Mapping[str, Any], where: str) -> Submission:
    """A submission from the fields of V1 or V2, with the video as bytes among them.

    Raises:
        UsageError: a field is missing, unknown or of another type.
    """
    if not isinstance(video := fields.get("video"), bytes):
        raise UsageError("video: this field is missing", where=where, cure=EXAMPLE)
    return Submission(parse_fields({name: fields[name] for name in fields if name != "video"}, where), video)


def from_v1(payload: Any) -> list[Submission]:
    """The requests in a V1 body.

    Raises:
        UsageError: the body is not a V1 request.
    """
    instances = payload.get("instances") if isinstance(payload, Mapping) else None
    if not isinstance(instances, list) or not instances:
        raise UsageError("the body holds no instances", cure=EXAMPLE)
    if len(instances) > MAX_INSTANCES:
        raise UsageError(f"{len(instances)} instances are too many", cure=f"send at most {MAX_INSTANCES} at once")
    return [_from_instance(instance, f"instances[{index}]") for index, instance in enumerate(instances)]


def _from_instance(instance: Any, where: str) -> Submission:
    if not isinstance(instance, Mapping):
        raise UsageError("this is not an object", where=where, cure=EXAMPLE)
    video = instance.get("video")
    if not isinstance(video, str):
        raise UsageError("video: a base64 string is needed", where=where, cure=EXAMPLE)
    try:
        return parse_submission({**instance, "video": base64.b64decode(video, validate=True)}, where)
    except (binascii.Error, ValueError) as error:
        raise UsageError("video: this is not base64", where=where, cure=EXAMPLE) from error


def to_v1(dubs: list[DubResult]) -> dict[str, Any]:
    """The V1 response."""
    return {"predictions": [{"video": base64.b64encode(dub.mp4).decode(), **result_fields(dub)} for dub in dubs]}


def result_fields(dub: DubResult) -> dict[str, Any]:
    """All fields of a result except the video."""
    return {
        "seconds": dub.seconds,
        "seed": dub.seed,
        "model_version": dub.model_version,
        "machine_generated": True,
        "notes": list(dub.notes),
    }


@contextmanager
def refuse_unreadable_v2() -> Iterator[None]:
    """Turns the errors of KServe's V2 decoders into the caller's fault: they answer 500, or INTERNAL over gRPC.

    Raises:
        UsageError: lengths, types and contents do not agree.
    """
    from kserve.errors import InferenceError, InvalidInput

    try:
        yield
    except (
        InferenceError,
        InvalidInput,
        struct.error,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        raise UsageError(
            f"the V2 request cannot be read ({type(error).__name__})",
            where="body",
            cure="make the lengths and types that the request states agree with its data",
        ) from error


def from_v2(request: InferRequest) -> Submission:
    """The request in V2 tensors.

    Raises:
        UsageError: a tensor is missing, unknown, or holds something else.
    """
    fields: dict[str, Any] = {}
    for tensor in request.inputs:
        values = _values(tensor)
        if tensor.name == "video":
            fields["video"] = _video(values)
        elif values.size != 1:
            raise UsageError(f"{values.size} values, one is needed", where=tensor.name[:80], cure="send shape [1]")
        else:
            fields[tensor.name] = _scalar(values.reshape(-1)[0], tensor.name)
    return parse_submission(fields, "inputs")


def _values(tensor: Any) -> np.ndarray:
    try:
        return tensor.as_numpy()  # and not as_string(): it fails on BYTES that came as JSON
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise UsageError(
            f"shape, type and data do not agree ({str(error)[:200]})", where=tensor.name[:80], cure="correct it"
        ) from error


def _video(values: np.ndarray) -> bytes:
    if values.dtype == np.uint8:
        return values.tobytes()
    if values.dtype != object or values.size != 1:
        raise UsageError("neither UINT8 [N] nor BYTES [1]", where="video", cure="send one of these")
    content = values.reshape(-1)[0]
    content = content.encode() if isinstance(content, str) else bytes(content)
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        return content  # a container has bytes outside the base64 alphabet: the file itself was sent


def _scalar(value: Any, name: str) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise UsageError("this is not UTF-8", where=name[:80], cure="send the text as UTF-8") from error
    return value.item() if isinstance(value, np.generic) else value


def to_v2(dub: DubResult, request: InferRequest) -> InferResponse:
    """The V2 response, in JSON or binary as requested."""
    from kserve import InferOutput, InferResponse

    values = {"video": np.frombuffer(dub.mp4, dtype=np.uint8), **_tensors(dub)}
    outputs = []
    for tensor in OUTPUTS:
        output = InferOutput(tensor.name, list(values[tensor.name].shape), tensor.datatype)
        output.set_data_from_numpy(values[tensor.name], binary_data=request.use_binary_outputs)
        outputs.append(output)
    return InferResponse(
        response_id=request.id or str(uuid.uuid4()),  # required by KServe's response
        model_name=request.model_name,
        model_version=dub.model_version,
        infer_outputs=outputs,
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


def _tensors(dub: DubResult) -> dict[str, np.ndarray]:
    return {
        "seconds": np.array([dub.seconds]),
        "seed": np.array([dub.seed], dtype=np.int64),
        "model_version": np.array([dub.model_version.encode()], dtype=object),
        "machine_generated": np.array([True]),
        "notes": np.array([note.encode() for note in dub.notes or ("nothing was changed",)], dtype=object),
    }
