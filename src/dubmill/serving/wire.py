"""Requests and answers as KServe's V1 (JSON) and V2 (tensors) protocols write them; no server in sight.

V1  {"instances": [{"video": base64, "language": "es", "text": "uno tres seis", "consent": "…", "seed": 1}]}
V2  inputs named likewise: video as UINT8 [N] or as BYTES [1] (base64, or the file's bytes), the words as BYTES [1],
    seed as any integer type [1]; a seed left out is 0.
Either may say which of several faces is dubbed, `face`: left, right, a number counted from the left, or all.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from dubmill.artifacts.rows import Line
from dubmill.config.params import Seed
from dubmill.dubbing.service import Dub, DubRequest
from dubmill.errors import UsageError

if TYPE_CHECKING:
    from kserve import InferRequest, InferResponse

MAX_INSTANCES = 4
EXAMPLE = 'send {"instances": [{"video": <base64 MP4>, "language": "es", "text": "uno tres seis", "consent": "…", "seed": 1}]}'
INPUTS = [
    {"name": "video", "datatype": "UINT8", "shape": [-1]},
    {"name": "language", "datatype": "BYTES", "shape": [1]},
    {"name": "text", "datatype": "BYTES", "shape": [1]},
    {"name": "consent", "datatype": "BYTES", "shape": [1]},
    {"name": "seed", "datatype": "INT64", "shape": [1]},
    {"name": "face", "datatype": "BYTES", "shape": [1]},
]
OUTPUTS = [
    {"name": "video", "datatype": "UINT8", "shape": [-1]},
    {"name": "seconds", "datatype": "FP64", "shape": [1]},
    {"name": "seed", "datatype": "INT64", "shape": [1]},
    {"name": "model_version", "datatype": "BYTES", "shape": [1]},
    {"name": "machine_generated", "datatype": "BOOL", "shape": [1]},
    {"name": "notes", "datatype": "BYTES", "shape": [-1]},
]


class Fields(BaseModel):
    """The fields of one request, in any protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    video: bytes
    language: str
    text: str
    consent: str = ""  # its absence is answered by ConsentMissing, which says what to send
    seed: Seed = 0
    face: str = ""


def request_of(fields: Mapping[str, Any], where: str) -> DubRequest:
    """The request that `fields` spell; the video as bytes already.

    Raises:
        UsageError: a field is missing, unknown or of another type.
    """
    try:
        told = Fields.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"])
        raise UsageError(f"{name}: {fault['msg']}", where=where, cure=EXAMPLE) from error
    line = Line(language=told.language, text=told.text)
    return DubRequest(video=told.video, line=line, consent=told.consent, seed=told.seed, face=told.face)


def from_v1(payload: Any) -> list[DubRequest]:
    """The requests in a V1 body.

    Raises:
        UsageError: it is not one.
    """
    instances = payload.get("instances") if isinstance(payload, Mapping) else None
    if not isinstance(instances, list) or not instances:
        raise UsageError("the body holds no instances", cure=EXAMPLE)
    if len(instances) > MAX_INSTANCES:
        raise UsageError(f"{len(instances)} instances are too many", cure=f"send at most {MAX_INSTANCES} at once")
    return [_from_instance(one, f"instances[{index}]") for index, one in enumerate(instances)]


def _from_instance(instance: Any, where: str) -> DubRequest:
    if not isinstance(instance, Mapping):
        raise UsageError("this is not an object", where=where, cure=EXAMPLE)
    video = instance.get("video")
    if not isinstance(video, str):
        raise UsageError("video: a base64 string is needed", where=where, cure=EXAMPLE)
    try:
        return request_of({**instance, "video": base64.b64decode(video, validate=True)}, where)
    except (binascii.Error, ValueError) as error:
        raise UsageError("video: this is not base64", where=where, cure=EXAMPLE) from error


def to_v1(dubs: list[Dub]) -> dict[str, Any]:
    """The V1 answer."""
    return {"predictions": [{"video": base64.b64encode(dub.mp4).decode(), **facts(dub)} for dub in dubs]}


def facts(dub: Dub) -> dict[str, Any]:
    """All of a dub but its bytes."""
    return {
        "seconds": dub.seconds,
        "seed": dub.seed,
        "model_version": dub.model_version,
        "machine_generated": True,
        "notes": list(dub.notes),
    }


def from_v2(request: InferRequest) -> DubRequest:
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
            raise UsageError(f"{values.size} values, one is needed", where=tensor.name, cure="send shape [1]")
        else:
            fields[tensor.name] = _plain(values.reshape(-1)[0], tensor.name)
    return request_of(fields, "inputs")


def _values(tensor: Any) -> np.ndarray:
    try:
        return tensor.as_numpy()  # and not as_string(): it fails on BYTES that came as JSON
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"shape, type and data do not agree ({error})", where=tensor.name, cure="mend it") from error


def _video(values: np.ndarray) -> bytes:
    if values.dtype == np.uint8:
        return values.tobytes()
    if values.dtype != object or values.size != 1:
        raise UsageError("neither UINT8 [N] nor BYTES [1]", where="video", cure="send one of these")
    held = values.reshape(-1)[0]
    held = held.encode() if isinstance(held, str) else bytes(held)
    try:
        return base64.b64decode(held, validate=True)
    except binascii.Error:
        return held  # a container has bytes outside the base64 alphabet: the file itself was sent


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise UsageError("this is not UTF-8", where=name, cure="send the text as UTF-8") from error
    return value.item() if isinstance(value, np.generic) else value


def to_v2(dub: Dub, request: InferRequest) -> InferResponse:
    """The V2 answer, in JSON or binary as `request` wants it."""
    from kserve import InferOutput, InferResponse

    values = {"video": np.frombuffer(dub.mp4, dtype=np.uint8), **_tensors(dub)}
    outputs = []
    for told in OUTPUTS:
        output = InferOutput(told["name"], list(values[told["name"]].shape), told["datatype"])
        output.set_data_from_numpy(values[told["name"]], binary_data=request.use_binary_outputs)
        outputs.append(output)
    return InferResponse(
        response_id=request.id or str(uuid.uuid4()),  # KServe's answer insists on one
        model_name=request.model_name,
        model_version=dub.model_version,
        infer_outputs=outputs,
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


def _tensors(dub: Dub) -> dict[str, np.ndarray]:
    return {
        "seconds": np.array([dub.seconds]),
        "seed": np.array([dub.seed], dtype=np.int64),
        "model_version": np.array([dub.model_version.encode()], dtype=object),
        "machine_generated": np.array([True]),
        "notes": np.array([note.encode() for note in dub.notes or ("nothing was changed",)], dtype=object),
    }
