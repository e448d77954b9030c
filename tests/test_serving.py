"""The server process as its users meet it: KServe's client, plain HTTP, our client. Only the dubber stands in."""

import argparse
import asyncio
import base64
import hashlib
import json
import re
import signal
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from doubles import dubbing_server
from doubles.dubbers import tone_hz
from doubles.releases import CONSENT, small_clip, tiny_backbone, tiny_release
from fastapi import FastAPI
from fastapi.testclient import TestClient

from dubmill import media
from dubmill.artifacts.store import Release
from dubmill.client import DubClient
from dubmill.dubbing import open as opening
from dubmill.dubbing.consent import Consent
from dubmill.errors import (
    BackboneMismatchError,
    DubmillError,
    MediaTooLongError,
    MissingConsentError,
    ServiceUnavailableError,
    UsageError,
)
from dubmill.serving import server, wire
from dubmill.serving.fields import STATEMENT, FormFields, parse_fields
from dubmill.serving.open_jobs import QueueFullError
from dubmill.serving.openapi import DUB_BODY
from dubmill.serving.problems import kserve_error_response


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def urls(folder):
    """Two servers, started together because importing takes them long: a good one, and one without a self-test."""
    (folder / "unready").mkdir()
    grpc_port = dubbing_server.free_port()
    (folder / "grpc").write_text(f"127.0.0.1:{grpc_port}")
    processes, ports = zip(
        dubbing_server.start(folder, more=("--grpc_port", grpc_port)),
        dubbing_server.start(folder / "unready", has_selftest=False),
        strict=True,
    )
    good, unready = (f"http://127.0.0.1:{port}" for port in ports)
    DubClient(good).wait_until_ready(seconds=180)
    yield good, unready
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=60) for process in processes] == [0, 0]


@pytest.fixture(scope="module")
def url(urls):
    return urls[0]


@pytest.fixture(scope="module")
def mp4(folder):
    path = folder / "in.mp4"
    path.write_bytes(media.mp4_bytes(small_clip()))
    return path


@pytest.fixture
def client(url):
    return DubClient(url)


def instance(mp4, **changes):
    video = base64.b64encode(mp4.read_bytes()).decode()
    return {"video": video, "language": "es", "text": "uno tres", "consent": CONSENT, "seed": 1} | changes


def predict(url, *instances):
    return httpx.post(f"{url}/v1/models/dubmill:predict", json={"instances": list(instances)}, timeout=120)


def test_v1_dubs_a_clip_and_says_what_it_did(url, mp4):
    told = predict(url, instance(mp4, seed=3)).json()["predictions"][0]
    video = base64.b64decode(told.pop("video"))
    note, *_ = told.pop("notes")
    assert note.startswith("1 chunk(s), 1.0 of 1.0 s, are dubbed")
    assert told == {"seconds": 1.04, "seed": 3, "model_version": "7", "machine_generated": True}
    assert tone_hz(video) == pytest.approx(600, abs=2)
    assert media.probe(video).num_frames == 13


def test_the_dub_says_in_its_metadata_that_a_machine_made_it_and_from_what(client, mp4, folder):
    comment = media.metadata(client.dub(mp4, to="es", text="uno", consent=CONSENT))["comment"]
    assert "machine-generated" in comment
    assert "dubmill 7" in comment
    assert Release.open(folder / "release").digest in comment
    assert hashlib.sha256(mp4.read_bytes()).hexdigest() in comment


def test_equal_requests_get_equal_bytes_and_seeds_matter(client, mp4):
    one, same, other = (client.dub(mp4, to="es", text="uno", consent=CONSENT, seed=seed) for seed in (4, 4, 5))
    assert one == same != other


def test_consent_is_asked_for_and_kept(client, mp4, folder):
    before = (folder / "consent.jsonl").read_text().splitlines()
    for statement in ("", "   ", "yes"):
        with pytest.raises(MissingConsentError, match="say who agrees"):
            client.dub(mp4, to="es", text="uno", consent=statement)
    client.dub(mp4, to="en", text="one", consent="Zoë Ñandú agrees")
    entries = (folder / "consent.jsonl").read_text().splitlines()
    assert entries[:-1] == before
    entry = json.loads(entries[-1])
    assert (entry["statement"], entry["language"]) == ("Zoë Ñandú agrees", "en")
    assert len(entry["source_sha256"]) == 64


def test_v2_dubs_through_kserves_own_client_in_json_and_in_binary(url, mp4):
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    def tensors(binary):
        video = np.frombuffer(mp4.read_bytes(), np.uint8)
        told = {"language": "es", "text": "uno tres", "consent": CONSENT}
        inputs = [InferInput("video", [len(video)], "UINT8"), *(InferInput(name, [1], "BYTES") for name in told)]
        values = [video, *(np.array([word.encode()], dtype=object) for word in told.values())]
        for tensor, value in zip(inputs, values, strict=True):
            tensor.set_data_from_numpy(value, binary_data=binary)
        return InferRequest("dubmill", inputs, parameters={"binary_data_output": binary})

    async def both():
        async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=30)) as kserve:
            assert await kserve.is_model_ready(url, "dubmill")
            return [await kserve.infer(url, tensors(binary), model_name="dubmill") for binary in (False, True)]

    plain, binary = asyncio.run(both())
    video = plain.get_output_by_name("video").as_numpy().astype(np.uint8).tobytes()
    assert tone_hz(video) == pytest.approx(300, abs=2)
    assert binary.get_output_by_name("video").as_numpy().tobytes() == video
    assert plain.get_output_by_name("model_version").as_numpy().tolist() == ["7"]
    assert bool(plain.get_output_by_name("machine_generated").as_numpy()[0])


def grpc_dub(folder, mp4, *, headers=(), model="dubmill", binary=True, timeout=30, raw=None, **changes):
    """What KServe's gRPC client gets for a dub; `raw` changes the message on its way."""
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    async def infer():
        fields = {
            "video": mp4.read_bytes(),
            "language": b"es",
            "text": b"uno tres",
            "consent": CONSENT.encode(),
        } | changes
        inputs = []
        for name, value in fields.items():
            tensor = np.frombuffer(value, np.uint8) if name == "video" else np.array([value], dtype=object)
            inputs.append(InferInput(name, list(tensor.shape), "UINT8" if name == "video" else "BYTES"))
            inputs[-1].set_data_from_numpy(tensor, binary_data=binary)
        request = InferRequest(model, inputs)
        async with InferenceGRPCClient((folder / "grpc").read_text(), timeout=timeout, retries=0) as kserve:
            if raw is None:
                return await kserve.infer(request, headers=headers)
            message = request.to_grpc()
            raw(message)
            return await kserve._client_stub.ModelInfer(message, timeout=timeout)

    return asyncio.run(infer())


@pytest.mark.parametrize("binary", [True, False])
def test_v2_dubs_over_grpc_through_kserves_own_client(url, folder, mp4, binary):
    answer = grpc_dub(folder, mp4, binary=binary)
    video = answer.get_output_by_name("video").as_numpy().astype(np.uint8).tobytes()
    assert tone_hz(video) == pytest.approx(300, abs=2)
    assert answer.get_output_by_name("model_version").as_numpy().tolist() == [b"7"]


def test_grpc_says_whether_the_model_is_ready_and_what_it_takes(url, folder):
    from kserve import InferenceGRPCClient
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    async def facts():
        async with InferenceGRPCClient((folder / "grpc").read_text(), timeout=30) as kserve:
            metadata = await kserve._client_stub.ModelMetadata(pb.ModelMetadataRequest(name="dubmill"))
            return await kserve.is_server_ready(), await kserve.is_model_ready("dubmill"), metadata

    is_server_ready, is_model_ready, metadata = asyncio.run(facts())
    assert is_server_ready
    assert is_model_ready
    assert [tensor.name for tensor in metadata.inputs][:3] == ["video", "language", "text"]


def _cut_prefix(message):
    message.raw_input_contents[1] = b"\xff\xff\xff\x7fes"


def _lose_tensor(message):
    del message.raw_input_contents[1]


def _lie_about_type(message):
    message.inputs[0].datatype = "FP64"


def _no_such_type(message):
    message.inputs[0].datatype = "MANY"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"consent": b""}, "INVALID_ARGUMENT", "missing_consent"),
        ({"language": b"fr"}, "INVALID_ARGUMENT", "unsupported_text"),
        ({"text": b"\xff"}, "INVALID_ARGUMENT", "usage"),
        ({"mood": b"good"}, "INVALID_ARGUMENT", "usage"),
        ({"video": b"hello"}, "INVALID_ARGUMENT", "unreadable_media"),
        ({"video": bytes(5_000_000)}, "RESOURCE_EXHAUSTED", None),
        ({"model": "nobody"}, "NOT_FOUND", None),
        ({"raw": _cut_prefix}, "INVALID_ARGUMENT", "usage"),
        ({"raw": _lose_tensor}, "INVALID_ARGUMENT", "usage"),
        ({"raw": _lie_about_type}, "INVALID_ARGUMENT", "usage"),
        ({"raw": _no_such_type}, "INVALID_ARGUMENT", "usage"),
    ],
)
def test_a_wrong_grpc_request_gets_its_status_and_code(url, folder, mp4, changes, status, code):
    import grpc

    with pytest.raises(grpc.RpcError) as refusal:
        grpc_dub(folder, mp4, **changes)
    assert (refusal.value.code().name, dict(refusal.value.trailing_metadata()).get("code")) == (status, code)
    assert "Traceback" not in refusal.value.details()


def test_a_grpc_caller_that_leaves_cancels_its_dub(url, client, folder, mp4):
    import grpc

    (folder / "held").touch()
    try:
        with pytest.raises(grpc.RpcError) as refusal:
            grpc_dub(folder, mp4, text=b"lento", timeout=1)
        assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert tone_hz(client.dub(mp4, to="es", text="uno", consent=CONSENT, seed=1)) == pytest.approx(400, abs=2)
    finally:
        (folder / "held").unlink()


def test_a_grpc_call_without_its_key_is_unauthenticated_but_a_probe_needs_none():
    import grpc
    from kserve import InferenceGRPCClient, InferRequest, ModelRepository
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension

    from dubmill.serving.grpc_server import DubGRPCServer
    from dubmill.serving.keys import Callers

    async def calls():
        models, address = ModelRepository(), f"127.0.0.1:{dubbing_server.free_port()}"
        callers = Callers({hashlib.sha256(b"key").hexdigest(): "ana"})
        repository = ModelRepositoryExtension(models)
        server = DubGRPCServer(address, DataPlane(models), repository, callers=callers, max_body_bytes=1000)
        serving, statuses = asyncio.ensure_future(server.start(1)), []
        async with InferenceGRPCClient(address, timeout=30) as kserve:
            is_live = await kserve.is_server_live()
            for headers in ((), (("authorization", "Bearer wrong"),), (("authorization", "Bearer key"),)):
                with pytest.raises(grpc.RpcError) as refusal:
                    await kserve.infer(InferRequest("nobody", []), headers=headers)
                statuses.append(refusal.value.code().name)
        await server.stop()
        await serving
        return is_live, statuses

    assert asyncio.run(calls()) == (True, ["UNAUTHENTICATED", "UNAUTHENTICATED", "NOT_FOUND"])


def test_v1_works_through_kserves_own_client(url, mp4):
    from kserve import InferenceRESTClient, RESTConfig

    async def infer():
        async with InferenceRESTClient(RESTConfig(protocol="v1", timeout=30)) as kserve:
            return await kserve.infer(url, {"instances": [instance(mp4)]}, model_name="dubmill")

    assert media.probe(base64.b64decode(asyncio.run(infer())["predictions"][0]["video"])).has_audio


def test_v2_json_takes_base64_too(url, mp4):
    words = {name: value for name, value in instance(mp4).items() if name != "seed"}
    inputs = [{"name": name, "shape": [1], "datatype": "BYTES", "data": [word]} for name, word in words.items()]
    inputs.append({"name": "seed", "shape": [1], "datatype": "INT64", "data": [2]})
    told = httpx.post(f"{url}/v2/models/dubmill/infer", json={"inputs": inputs}, timeout=30).json()
    outputs = {output["name"]: output["data"] for output in told["outputs"]}
    assert tone_hz(bytes(outputs["video"])) == pytest.approx(500, abs=2)
    assert outputs["seed"] == [2]


def form(mp4, **changes):
    fields = {"language": "es", "text": "uno", "consent": CONSENT} | changes
    return {"data": fields, "files": {"video": ("in.mp4", mp4.read_bytes(), "video/mp4")}}


def test_the_raw_route_takes_a_form_and_gives_an_mp4(url, mp4, folder):
    answer = httpx.post(f"{url}/v1/dub", **form(mp4, seed=2), timeout=30)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["x-dub-machine-generated"] == "true"
    assert tone_hz(answer.content) == pytest.approx(500, abs=2)
    assert "agrees" not in (folder / "log").read_text()  # names stay in the ledger


@pytest.mark.parametrize(
    "statement", ["Ana Ruiz agrees", "Иван Петров", "安娜 同意", "a b", "", "   ", "yes", "1 2", "Ana\nRuiz agrees"]
)
def test_the_openapi_document_allows_a_consent_that_the_server_accepts_and_no_other(statement):
    """A fuzzer reported the empty consent, which the schema allowed."""
    try:
        is_accepted = bool(Consent(statement).check())
    except MissingConsentError:
        is_accepted = False
    assert bool(re.search(STATEMENT, statement)) == is_accepted
    schema = DUB_BODY["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["language", "consent"]
    assert schema["properties"]["consent"]["anyOf"][0]["pattern"] == STATEMENT


def test_consent_in_a_url_is_refused(url, mp4):
    """Proxies and logs keep URLs."""
    answer = httpx.post(f"{url}/v1/dub", params={"consent": CONSENT}, **form(mp4), timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (400, "missing_consent")


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"video": "no base64!"}, 400, "not base64"),
        ({"video": None}, 400, "base64 string"),
        ({"seed": -1}, 400, "seed"),
        ({"seed": 2**53}, 400, "seed"),
        ({"mood": "good"}, 400, "mood"),
        ({"face": "middle"}, 400, "'middle' is no face; choose left"),
        ({"consent": ""}, 400, "consent"),
        ({"language": "tlh"}, 422, "unknown language"),
        ({"language": "fr"}, 422, "does not dub into 'fr'; use one of en, es"),
        ({"text": "indecible"}, 422, "not a word"),
        ({"video": base64.b64encode(b"hello").decode()}, 422, "not a media file"),
        ({"video": ""}, 422, "no clip"),
    ],
)
def test_a_request_that_makes_no_sense_gets_a_sentence(url, mp4, changes, status, sentence):
    answer = predict(url, instance(mp4, **changes))
    assert answer.status_code == status
    assert sentence in answer.json()["error"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("body", ["[]", "{}", '{"instances": []}', '{"instances": [3]}', '{"instances": 3}', "{"])
def test_a_body_that_is_no_v1_request_is_a_400(url, body):
    answer = httpx.post(
        f"{url}/v1/models/dubmill:predict", content=body, headers={"content-type": "application/json"}, timeout=30
    )
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_longer_video_than_a_clip_is_refused_and_any_other_comes_back_as_it_is(client, folder):
    """V1, V2 and /v1/dub answered at the model's size, and refused shorter clips; jobs did not."""
    for name, num_frames, side in (("long", 40, 64), ("near", 14, 80), ("short", 9, 80)):
        (folder / f"{name}.mp4").write_bytes(media.mp4_bytes(small_clip(num_frames=num_frames, side=side)))
    with pytest.raises(MediaTooLongError, match=r"longer than 1.29 s.*dub it as a film, `dubmill dub FILM --script`"):
        client.predict(folder / "long.mp4", to="es", text="uno", consent=CONSENT)
    for name, num_frames in (("near", 14), ("short", 9)):
        dubbed = client.predict(folder / f"{name}.mp4", to="es", text="uno", consent=CONSENT)
        info = media.probe(base64.b64decode(dubbed["video"]))
        assert (info.num_frames, info.height, info.width) == (num_frames, 80, 80)
        assert "the model's picture has 64x64 pixels" in " ".join(dubbed["notes"])


def test_what_is_too_large_or_too_long_is_a_413(url, mp4, folder):
    headers = {"content-type": "application/json"}
    heavy = httpx.post(f"{url}/v1/dub", content=b"x" * 5_000_000, headers=headers, timeout=30)
    streamed = httpx.post(f"{url}/v1/dub", content=(b"x" * 100_000 for _ in range(50)), headers=headers, timeout=30)
    lasting = folder / "lasting.mp4"
    lasting.write_bytes(media.mp4_bytes(small_clip(num_frames=80)))
    answers = [heavy, streamed, predict(url, instance(lasting))]
    assert [answer.status_code for answer in answers] == [413, 413, 413]
    assert "longer than 1.29 s" in answers[-1].json()["error"]
    assert all("`dubmill dub FILM --script`" in answer.json()["error"] for answer in answers)


def test_health_answers_while_a_dub_runs_and_the_queue_is_bounded(url, client, mp4, folder):
    """A synchronous predict would run on KServe's event loop, and Kubernetes would kill a server for working.

    The first dub cannot end before all these questions are answered, however slow the machine is.
    """
    held, answers = folder / "held", []
    held.touch()
    threads = [
        threading.Thread(target=lambda: answers.append(predict(url, instance(mp4, text="lento")))) for _ in range(4)
    ]
    try:
        for thread in threads:
            thread.start()
        until = time.monotonic() + 60
        while client.describe()["pending"] < 4 and time.monotonic() < until:
            time.sleep(0.02)
        assert httpx.get(f"{url}/v2/models/dubmill/ready", timeout=60).status_code == 200
        assert httpx.get(f"{url}/v2/health/live", timeout=60).status_code == 200
        refused = predict(url, instance(mp4))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert (client.describe()["pending"], answers) == (4, [])
    finally:
        held.unlink()
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert client.describe()["pending"] == 0


def test_metrics_count_dubs_by_outcome(url, client, mp4):
    client.dub(mp4, to="es", text="uno", consent=CONSENT)
    told = httpx.get(f"{url}/metrics", timeout=5).text
    assert 'dubs_total{language="es",model="dubmill",outcome="done"}' in told
    assert 'dub_seconds_count{model="dubmill"}' in told
    predict(url, instance(mp4, language="tlh", consent=""))
    assert "tlh" not in httpx.get(f"{url}/metrics", timeout=5).text  # a label of a stranger's making stays for ever


def test_metrics_have_their_series_before_the_first_dub(urls):
    """On the server that never got ready, nothing was ever counted."""
    text = httpx.get(f"{urls[1]}/metrics", timeout=5).text
    assert 'dubs_total{language="es",model="dubmill",outcome="done"} 0.0' in text
    assert 'dub_seconds_count{model="dubmill"} 0.0' in text


@pytest.mark.parametrize("tag", ["ES", "es-MX", "es_419"])
def test_a_tag_with_a_region_or_in_capitals_is_its_language(client, mp4, tag):
    assert tone_hz(client.dub(mp4, to=tag, text="uno", consent=CONSENT, seed=1)) == pytest.approx(400, abs=2)


@pytest.mark.parametrize("name", ["language", "face", "consent", "text", "w" * 70_000])
def test_an_error_does_not_send_the_input_back(url, mp4, name):
    """It echoed up to 74 KB."""
    answer = predict(url, instance(mp4, **{name: "w" * 70_000}))
    assert answer.status_code in (400, 422)
    assert len(answer.json()["error"]) < 900
    assert "w" * 201 not in answer.text


def _binary_request(mp4, *, cut=0, prefix=None, text=b"uno", size=None):
    video = mp4.read_bytes()
    texts = {"language": b"es", "text": text, "consent": CONSENT.encode()}
    parts = [
        video,
        *((prefix if prefix is not None else len(value)).to_bytes(4, "little") + value for value in texts.values()),
    ]
    names = [("video", "UINT8", len(video)), *((name, "BYTES", 1) for name in texts)]
    inputs = [
        {"name": name, "datatype": kind, "shape": [count], "parameters": {"binary_data_size": size or len(part)}}
        for (name, kind, count), part in zip(names, parts, strict=True)
    ]
    head = json.dumps({"inputs": inputs}).encode()
    body = head + b"".join(parts)
    return {"content": body[: len(body) - cut], "headers": {"Inference-Header-Content-Length": str(len(head))}}


def test_a_binary_request_made_by_hand_is_understood(url, mp4):
    answer = httpx.post(f"{url}/v2/models/dubmill/infer", timeout=30, **_binary_request(mp4))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "broken",
    [{"cut": 1}, {"cut": 30}, {"prefix": 2**31}, {"prefix": 10_000}, {"text": b"\xff\xfe"}, {"size": 3}, {"size": -1}],
)
def test_a_binary_request_whose_lengths_lie_is_the_callers_fault(url, mp4, broken):
    """Short tails, bad prefixes and text that is not UTF-8 were answered with 500."""
    answer = httpx.post(f"{url}/v2/models/dubmill/infer", timeout=30, **_binary_request(mp4, **broken))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]


def test_a_header_length_that_is_no_number_is_a_400(url, mp4):
    request = _binary_request(mp4)
    headers = {"Inference-Header-Content-Length": "many"}
    answer = httpx.post(f"{url}/v2/models/dubmill/infer", timeout=30, content=request["content"], headers=headers)
    assert answer.status_code == 400


def test_the_client_comes_again_when_the_server_says(monkeypatch):
    """It gave up at the first 429, although the server told when a place would be free."""
    answers = [
        httpx.Response(429, json={"error": "busy"}, headers={"retry-after": "2"}),
        httpx.Response(200, json={"predictions": []}),
    ]
    waits = []
    monkeypatch.setattr("httpx.request", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr("dubmill.client.clients.time.sleep", waits.append)
    assert DubClient("http://there").describe() == {"predictions": []}
    assert 2.0 <= waits[0] <= 2.5


def test_the_client_does_not_wait_beyond_its_timeout(monkeypatch):
    busy = httpx.Response(429, json={"error": "busy"}, headers={"retry-after": "60"})
    monkeypatch.setattr("httpx.request", lambda *_, **__: busy)
    monkeypatch.setattr("dubmill.client.clients.time.sleep", lambda seconds: pytest.fail("it waited"))
    with pytest.raises(ServiceUnavailableError, match="busy"):
        DubClient("http://there", timeout_seconds=5).describe()


def test_nobody_can_take_the_model_away_over_the_network(url):
    """KServe's own unload route is open to every caller, and the next dub would meet a 404."""
    for verb in ("unload", "load"):
        refused = httpx.post(f"{url}/v2/repository/models/dubmill/{verb}", timeout=5)
        assert (refused.status_code, refused.json()["code"]) == (403, "fixed_model")
    assert httpx.get(f"{url}/v2/models/dubmill/ready", timeout=5).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models/nobody", 404, "unknown_model"),
        ("POST", "/v1/models/nobody:predict", 404, "unknown_model"),
        ("GET", "/v2/models/nobody/ready", 404, "unknown_model"),
        ("GET", "/v2/models/dubmill?model_version=9", 404, "unknown_model"),
        ("GET", "/v2/models/dubmill/versions/9/ready", 404, "unknown_model"),
        ("POST", "/v2/models/nobody/infer", 404, "unknown_model"),
        ("POST", "/v1/models/dubmill:predict", 400, "usage"),
        ("PUT", "/v1/models/dubmill", 405, "method_not_allowed"),
    ],
)
def test_refusals_of_kserves_own_routes_are_problems_too(url, method, path, status, code):
    body = {"inputs": []} if path.endswith("infer") else [1]
    answer = httpx.request(method, f"{url}{path}", json=body if method == "POST" else None, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["error"] == answer.json()["detail"], "KServe's clients read `error`"
    if status == 405:
        assert answer.headers["allow"] == "GET"
    template = re.sub(r"nobody|dubmill", "{model_name}", path.partition("?")[0]).replace("/9/", "/{model_version}/")
    operation = httpx.get(f"{url}/openapi.json", timeout=10).json()["paths"][template].get(method.lower())
    assert operation is None or str(status) in operation["responses"]


def test_what_is_not_implemented_beyond_kserves_routes_is_an_error_500_and_no_unknown_model():
    api = FastAPI()
    api.add_exception_handler(NotImplementedError, kserve_error_response)

    @api.get("/{path:path}")
    def fail(path):
        raise NotImplementedError("this part is missing")

    client, statuses = TestClient(api, raise_server_exceptions=False), {}
    for path in (
        "/v2/models/dubmill",
        "/v1/models/dubmill",
        "/v2/repository/models/dubmill/load",
        "/v1/dubs",
        "/films",
    ):
        statuses[path] = client.get(path).status_code
    assert list(statuses.values()) == [404, 404, 403, 500, 500]


def test_an_empty_number_in_a_form_is_none():
    form = {"language": "es", "consent": CONSENT}
    tracks = [parse_fields(form | {"track": text}, "form", kind=FormFields).track for text in ("", "null", "2")]
    assert tracks == [None, None, 2]
    with pytest.raises(UsageError, match="track"):
        parse_fields(form | {"track": "0"}, "form", kind=FormFields)


def test_who_speaks_reaches_the_dubber_and_is_anybody_without():
    fields = {"video": b"clip", "language": "es", "text": "uno", "consent": "it is me"}
    assert wire.parse_submission({**fields, "speaker": "a woman"}, "query").fields.speaker == "a woman"
    assert wire.parse_submission(fields, "query").fields.speaker == ""


def test_the_studio_page_and_what_it_asks_for_are_served(url, client):
    kinds = {
        "": "text/html",
        "films": "text/html",
        "studio.css": "text/css",
        "studio.js": "javascript",
        "films.js": "javascript",
    }
    for path, kind in kinds.items():
        page = httpx.get(f"{url}/{path}", timeout=5)
        assert kind in page.headers["content-type"]
        assert "://" not in page.text
    sample = httpx.get(f"{url}/v1/dub/sample", timeout=5).content
    assert media.probe(sample).num_frames == 13
    told = client.describe()
    assert (told["ready"], told["version"], told["licence"]) == (True, "7", "Apache-2.0")
    assert [one["name"] for one in told["languages"]] == ["English", "Spanish"]


def test_a_client_without_a_server_says_so(mp4):
    with pytest.raises(ServiceUnavailableError, match="dubmill serve"):
        DubClient(f"http://127.0.0.1:{dubbing_server.free_port()}").dub(mp4, to="es", text="uno", consent=CONSENT)


def test_a_release_that_cannot_prove_itself_stays_unready_and_says_why(urls, mp4):
    url, reason = urls[1], "no selftest.clip"
    until = time.monotonic() + 30
    while reason not in said(f"{url}/v1/models/dubmill") and time.monotonic() < until:
        time.sleep(0.1)
    assert httpx.get(f"{url}/v2/health/live", timeout=5).status_code == 200
    refusals = [
        httpx.get(f"{url}/v1/models/dubmill", timeout=5),
        httpx.get(f"{url}/v2/health/ready", timeout=5),
        httpx.post(f"{url}/v1/dub", **form(mp4), timeout=5),
        predict(url, instance(mp4)),
    ]
    assert [answer.status_code for answer in refusals] == [503] * 4
    assert all(reason in answer.json()["error"] for answer in refusals)
    with pytest.raises(ServiceUnavailableError, match=reason):
        DubClient(url).dub(mp4, to="es", text="uno", consent=CONSENT)


def said(url):
    try:
        return httpx.get(url, timeout=5).text
    except httpx.HTTPError:
        return ""


def test_a_release_of_another_backbone_is_refused_before_anything_starts(tmp_path, capsys):
    release = tiny_release(tmp_path / "release", tiny_backbone(tmp_path / "one"))
    other = tiny_backbone(tmp_path / "other", name="other")
    with pytest.raises(BackboneMismatchError):
        opening.open_release(other.path, release.path)
    assert server.main(["--backbone", str(other.path), "--release", str(release.path)]) == 2
    assert "was trained on backbone" in capsys.readouterr().err


def test_the_arguments_are_plain_and_typed():
    asked = server.arguments().parse_args(["--backbone", "b", "--release", "r", "--http_port", "9"])
    assert isinstance(asked, argparse.Namespace)
    assert (asked.http_port, asked.name, asked.release) == (9, "dubmill", Path("r"))
    assert issubclass(QueueFullError, DubmillError)


@pytest.mark.parametrize(
    "name", ["max_dubbed_seconds", "max_film_seconds", "result_hours", "project_hours", "grace_seconds"]
)
def test_limits_in_seconds_and_hours_are_finite_numbers_and_not_negative(name, capsys):
    """With `nan` a quota refused nobody, and results were never deleted; with `inf` a stop failed, and /v1/limits was no JSON."""
    for text in ("nan", "-1", "-inf", "1 s", *(["inf", "1e999"] if name != "max_dubbed_seconds" else [])):
        with pytest.raises(SystemExit):
            server.arguments().parse_args(["--backbone=b", "--release=r", f"--{name}={text}"])
        assert f"argument --{name}: " in (error := capsys.readouterr().err)
        assert "it must be finite" in error or text not in ("inf", "1e999")
    for text in ("0", "2.5", *(["inf"] if name == "max_dubbed_seconds" else [])):
        options = server.arguments().parse_args(["--backbone=b", "--release=r", f"--{name}={text}"])
        assert getattr(options, name) == float(text)


@pytest.mark.parametrize(
    ("name", "least", "wrong"),
    [
        ("max_waiting", 0, "-1"),
        ("max_per_caller", 1, "0"),
        ("max_projects_per_caller", 0, "-1"),
        ("max_body_bytes", 1, "0"),
        ("batch_size", 1, "0"),
        ("http_port", 1, "65536"),
        ("grpc_port", 1, "0"),
    ],
)
def test_numbers_of_things_are_whole_and_not_too_small(name, least, wrong, capsys):
    for text in (wrong, "-5", "nan", "inf", "1.5", ""):
        with pytest.raises(SystemExit):
            server.arguments().parse_args(["--backbone=b", "--release=r", f"--{name}={text}"])
        assert f"argument --{name}: " in capsys.readouterr().err
    options = server.arguments().parse_args(["--backbone=b", "--release=r", f"--{name}={least}"])
    assert getattr(options, name) == least
