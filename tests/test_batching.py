"""Several jobs' clips in one sampler call: the same dubs as alone, and no clip suffers for another."""

import threading
import time
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles.dubbers import ToneDubber
from doubles.releases import small_clip

from benchmarks import endpoint
from dubmill.artifacts.rows import Line
from dubmill.config import params
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.dubber import Dubber
from dubmill.errors import UnsupportedTextError
from dubmill.model.memory import explained_out_of_memory
from dubmill.serving import room
from dubmill.serving.batching import BatchingDubber, WaitingClip
from dubmill.serving.room import clip_bytes, container_bytes, room_for_clips
from dubmill.worlds.materialize import materialize

LINE = Line(language="es", text="uno dos")


class Recorder(ToneDubber):
    """Remembers the size of each batch, and how many were not stopped; `limit` clips fit the memory."""

    def __init__(self, limit=100):
        self.sizes, self.limit, self.num_finished = [], limit, 0
        self.latents, self.were_alive = (
            None,
            [],
        )  # of the batch that did not fit: whether they were alive in later calls

    @explained_out_of_memory("dubbing", "lower batch_size")  # as `Dubber.dub_batch`
    def dub_batch(self, clips, lines, seeds, progress=None, *, speakers=()):
        self.sizes.append(len(clips))
        if self.latents is not None:
            self.were_alive.append(self.latents() is not None)
        progress(0.5)
        if len(clips) > self.limit:
            latents = np.zeros(len(clips))
            self.latents = weakref.ref(latents)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate too much")
        self.num_finished += 1
        return super().dub_batch(clips, lines, seeds, progress, speakers=speakers)


class Cancelled(Exception):
    """As a job's callback raises it."""


def cancel(share):
    raise Cancelled


def dub_together(dubber, requests, *, model, is_ready):
    """What each of `requests` (arguments of `dub`) gives, a clip or an exception; all wait for the model before it is free."""
    results = [None] * len(requests)

    def run(index, clip, how):
        try:
            results[index] = dubber.dub(clip, **how)
        except Exception as error:  # noqa: BLE001 (compared below)
            results[index] = error

    with model:
        threads = [threading.Thread(target=run, args=(index, *one), daemon=True) for index, one in enumerate(requests)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 60
        while not is_ready():
            assert time.monotonic() < until, "the requests do not wait for the model"
            time.sleep(0.005)
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    return results


def batch_of(inner, requests, max_clips=4, num_fitting=100):
    """The results of requests that wait for a model together."""
    model = threading.Lock()
    dubber = BatchingDubber(inner, model=model, max_clips=max_clips, num_fitting=lambda: num_fitting)
    return dub_together(dubber, requests, model=model, is_ready=lambda: len(dubber._waiting) == len(requests))


def request(seed, text="uno", progress=None):
    return small_clip(), {"line": Line(language="es", text=text), "seed": seed, "progress": progress}


def test_clips_that_wait_together_are_dubbed_in_one_call_as_many_as_allowed():
    inner = Recorder()
    results = batch_of(inner, [request(seed) for seed in range(5)], max_clips=3)
    alone = [ToneDubber().dub(small_clip(), line=LINE, seed=seed) for seed in range(5)]
    assert inner.sizes == [3, 2]
    assert all(np.array_equal(one.audio_CN, other.audio_CN) for one, other in zip(results, alone, strict=True))


def test_a_batch_never_has_more_clips_than_fit_the_free_memory():
    inner = Recorder()
    batch_of(inner, [request(seed) for seed in range(5)], num_fitting=2)
    assert inner.sizes == [2, 2, 1]


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", float("inf")), ("1000", 1000 - 900 + 300 + 50), ("not there", float("inf"))]
)
def test_a_containers_limit_counts_where_it_has_one_and_pages_of_files_are_free(tmp_path, limit, expected):
    if limit != "not there":
        (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 550\ninactive_file 300\nactive_file 50\n")
    assert container_bytes(tmp_path) == expected


def test_a_clip_that_fails_or_is_cancelled_does_not_touch_the_others_of_its_batch():
    inner, shares = Recorder(), []
    results = batch_of(
        inner, [request(1, progress=shares.append), request(2, "indecible"), request(3, progress=cancel)]
    )
    assert isinstance(results[1], UnsupportedTextError)
    assert isinstance(results[2], Cancelled)
    assert np.array_equal(results[0].audio_CN, ToneDubber().dub(small_clip(), line=LINE, seed=1).audio_CN)
    assert 0.5 in shares
    assert sorted(inner.sizes) in ([1, 1, 2], [1, 1, 3])  # the cancelled one may see it before it is taken


def test_the_sampler_stops_once_every_job_of_the_batch_is_cancelled():
    inner = Recorder()
    results = batch_of(inner, [request(seed, progress=cancel) for seed in range(2)])
    assert [type(result) for result in results] == [Cancelled] * 2
    assert inner.num_finished == 0


def test_a_batch_that_does_not_fit_the_memory_is_dubbed_in_smaller_ones():
    inner = Recorder(limit=2)
    model = threading.Lock()
    dubber = BatchingDubber(inner, model=model, max_clips=4, num_fitting=lambda: 100)
    for sizes in ([4, 1, 1, 1, 1], [2, 2]):
        inner.sizes.clear()
        requests = [request(seed) for seed in range(4)]
        results = dub_together(dubber, requests, model=model, is_ready=lambda: len(dubber._waiting) == 4)
        assert inner.sizes == sizes
        assert all(result.frames_FHWC.shape == small_clip().frames_FHWC.shape for result in results)
    assert len(inner.were_alive) == 6
    assert not any(inner.were_alive), "the memory of the failed batch is free before its clips are dubbed alone"


def test_progress_does_not_go_back_when_the_clips_of_a_failed_batch_are_dubbed_alone():
    shares = []
    batch_of(Recorder(limit=1), [request(1, progress=shares.append), request(2)])
    assert len(shares) >= 2
    assert set(shares) <= {0.0, 0.5}  # 0 while it waited
    assert shares == sorted(shares)


def test_a_job_gets_one_report_at_a_time_and_none_below_the_last():
    """The job's own thread wrote 0 after the thread that dubbed its clip had written 0.5."""
    shares, is_inside, may_leave = [], threading.Event(), threading.Event()

    def progress(share):
        is_inside.set()
        assert may_leave.wait(30)
        shares.append(share)

    clip = WaitingClip(small_clip(), LINE, 1, "", progress)
    threads = [threading.Thread(target=clip.report, args=(0.5,), daemon=True)]
    threads[0].start()
    assert is_inside.wait(30)
    is_inside.clear()
    threads.append(threading.Thread(target=clip.report, args=(0.0,), daemon=True))
    threads[1].start()
    assert not is_inside.wait(0.1)
    may_leave.set()
    for thread in threads:
        thread.join(timeout=30)
    assert shares == [0.5, 0.5]


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """A dubber of nano without an adapter, of two sampling steps."""
    values = params.load(Path(__file__).parents[1] / "params.yaml")
    backbone = materialize(values.backbone, tmp_path_factory.mktemp("nano") / "backbone")
    return Dubber.load(backbone, None, sampling=values.dub.sampling.model_copy(update={"num_steps": 2}))


def test_nano_dubs_a_clip_in_a_batch_as_it_does_alone(nano):
    """Within the tolerance of float sums in another order: at most one step of 255 in a pixel."""
    rng = np.random.default_rng(0)
    requests = []
    for seed, (language, text) in enumerate([("es", "uno dos seis"), ("fr", "six six un"), ("en", "one two six")]):
        clip = small_clip(num_frames=17)
        frames = rng.integers(0, 255, (17, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
        clip = type(clip)(frames, clip.frame_rate, clip.audio_CN * (seed + 1) / 3, clip.sample_rate_hz)
        requests.append((clip, {"line": Line(language=language, text=text), "seed": seed, "speaker": "a woman"}))
    for (clip, how), together in zip(requests, batch_of(nano, requests), strict=True):
        alone = nano.dub(clip, **how)
        assert np.abs(together.frames_FHWC.astype(int) - alone.frames_FHWC).max() <= 1
        assert np.allclose(together.audio_CN, alone.audio_CN, atol=1e-3)
        assert np.abs(alone.audio_CN).max() > 0.01


def test_as_many_clips_of_nano_fit_as_the_plan_counts_and_at_least_one(nano, monkeypatch):
    size = ClipSize(33, 64, 64, Fraction(25), 16000)
    free = [3.5 * clip_bytes(nano, size)]
    monkeypatch.setattr(room, "free_bytes", lambda device: free[0])
    num_fitting = room_for_clips(nano, size)
    assert num_fitting() == 3
    free[0] = 0.0
    assert num_fitting() == 1
    assert clip_bytes(nano, ClipSize(65, 64, 64, Fraction(25), 16000)) > 1.9 * clip_bytes(nano, size)


@pytest.mark.parametrize("part", ["audio_vae", "vae"])
def test_clips_that_do_not_fit_the_memory_of_a_decoder_are_sampled_in_smaller_batches(nano, part, monkeypatch):
    """Only the sampler's lack of memory halved the batch: later ones were sampled in full, and all in vain."""
    module, sizes = getattr(nano.modules, part), []
    decode = module.decode

    def decode_one(latents, *args, **how):
        sizes.append(len(latents))
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate too much")
        return decode(latents, *args, **how)

    monkeypatch.setattr(module, "decode", decode_one)
    requests, model = (
        [(small_clip(num_frames=17), request(seed, "uno dos tres")[1]) for seed in range(2)],
        threading.Lock(),
    )
    dubber = BatchingDubber(nano, model=model, max_clips=2, num_fitting=lambda: 100)
    for expected in ([2, 1, 1], [1, 1]):
        sizes.clear()
        results = dub_together(dubber, requests, model=model, is_ready=lambda: len(dubber._waiting) == 2)
        assert sizes == expected
        assert not any(isinstance(result, Exception) for result in results)


def test_the_benchmark_of_the_endpoint_refuses_parts_that_it_does_not_have_or_that_run_nothing(capsys):
    """A wrong name ran nothing, and the benchmark ended well."""
    for wrong in ("memory", "batches", "nano_jobs"):
        with pytest.raises(SystemExit):
            endpoint.parse(["--only", wrong])
    assert "give --nano_jobs a number too" in capsys.readouterr().err
    options = endpoint.parse(["--only", "batches", "kills", "--batches", "3"])
    assert {name: getattr(options, name) for name in endpoint.PARTS if getattr(options, name)} == {
        "batches": 3,
        "kills": 20,
    }
