"""The endpoint: latency of the job API, kills with queued jobs, mutated uploads, exchanged adapters, and batches.

Run with `PYTHONPATH=tests python benchmarks/endpoint.py [--kills 20] [--uploads 1000] [--seconds 10] [--swaps 5] [--batches 3]`; a
part with 0 is left out. A tone stands in for the model (`doubles.dubbers`), so that what is measured is the server: API, queue, worker,
media. Adapters are exchanged, and batches dubbed, on nano itself, with random LoRA weights of the size that params.yaml trains.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import psutil
from doubles import dubbing_server
from doubles.releases import CONSENT, small_clip

from dubmill import adapters, media
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Adapter
from dubmill.client import DubClient
from dubmill.config import params
from dubmill.dubbing import open as opening
from dubmill.dubbing.clip_dubber import BatchDubber
from dubmill.dubbing.consent import verify_ledger
from dubmill.dubbing.dubber import Dubber
from dubmill.dubbing.model_source import ModelSource
from dubmill.model.load import load
from dubmill.model.loras import activate_loras
from dubmill.worlds.materialize import materialize

RATE_HZ = 100.0  # requests a second, as the target says
NUM_JOBS = 50


class Server:
    """The server process in a folder, killed and started again at will."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clip = folder, media.mp4_bytes(small_clip())
        self.start()

    def start(self) -> float:
        """Start it; returns the seconds until it is ready."""
        started = time.monotonic()
        self.process, port = dubbing_server.start(
            self.folder, more=["--max_waiting", "20000", "--max_per_caller", "20000", "--grace_seconds", "20"]
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0)
        DubClient(str(self.http.base_url)).wait_until_ready(seconds=300)
        return time.monotonic() - started

    def submit(self, video: bytes, **fields: Any) -> httpx.Response:
        """The answer to one submission."""
        form = {"language": "es", "text": "uno", "consent": CONSENT, **fields}
        return self.http.post("/v1/dubs", data=form, files={"video": ("in.mp4", video, "video/mp4")})

    def wait(self, job_ids: list[str]) -> list[dict[str, Any]]:
        """The jobs once they are over."""
        jobs = []
        for job_id in job_ids:
            while (job := self.http.get(f"/v1/dubs/{job_id}").json())["state"] in ("queued", "running"):
                time.sleep(0.05)
            jobs.append(job)
        return jobs


def latencies(server: Server, seconds: float) -> dict[str, float]:
    """Milliseconds of submissions and of status requests, each at `RATE_HZ` in its turn while a dub runs."""
    (server.folder / "held").touch()
    first = server.submit(server.clip, text="lento").json()["id"]
    figures, ids = {}, []

    def timed(work: Any) -> float:
        started = time.perf_counter()
        answer = work()
        assert answer.status_code in (200, 202), answer.text
        if answer.status_code == 202:
            ids.append(answer.json()["id"])
        return 1000 * (time.perf_counter() - started)

    works = {"submit": lambda: server.submit(server.clip), "status": lambda: server.http.get(f"/v1/dubs/{first}")}
    for name, work in works.items():
        with ThreadPoolExecutor(32) as pool:
            futures, begin = [], time.monotonic()
            for index in range(round(seconds * RATE_HZ)):
                time.sleep(max(0.0, begin + index / RATE_HZ - time.monotonic()))
                futures.append(pool.submit(timed, work))
            values = [future.result() for future in futures]
        figures |= {
            f"{name}_p50_ms": float(np.percentile(values, 50)),
            f"{name}_p99_ms": float(np.percentile(values, 99)),
        }
    for job_id in [*ids, first]:
        server.http.delete(f"/v1/dubs/{job_id}")
    (server.folder / "held").unlink()
    return figures


def kills(server: Server, num_kills: int) -> dict[str, Any]:
    """Kill the server `num_kills` times while `NUM_JOBS` jobs are queued; counts of jobs lost and made twice."""
    generator = random.Random(0)
    ids = [server.submit(server.clip, seed=index).json()["id"] for index in range(NUM_JOBS)]
    starts = []
    for _ in range(num_kills):
        time.sleep(generator.uniform(0.0, 1.0))
        server.process.kill()
        server.process.wait()
        starts.append(server.start())
    jobs = server.wait(ids)
    entered = [json.loads(line)["job"] for line in (server.folder / "consent.jsonl").read_text().splitlines()]
    verify_ledger(server.folder / "consent.jsonl")
    return {
        "kills": num_kills,
        "jobs": NUM_JOBS,
        "lost": sum(job["state"] != "done" for job in jobs),
        "entered_twice": sum(entered.count(job_id) != 1 for job_id in ids),
        "start_to_ready_s": float(np.median(starts)) if starts else 0.0,
    }


def mutated_uploads(server: Server, num_uploads: int) -> dict[str, Any]:
    """Answers to clips of which some bytes were changed, removed or repeated: by state and status; children and files left."""
    generator, ids, refused = random.Random(1), [], 0
    for _ in range(num_uploads):
        answer = server.submit(_mutated(server.clip, generator))
        refused += answer.status_code != 202
        if answer.status_code == 202:
            ids.append(answer.json()["id"])
    jobs = server.wait(ids)
    counts: dict[str, int] = {"refused": refused}
    for job in jobs:
        name = job["state"] if job["state"] == "done" else f"{job['state']} {job['problem']['status']}"
        counts[name] = counts.get(name, 0) + 1
    children = [child.name() for child in psutil.Process(server.process.pid).children(recursive=True)]
    sources = list((server.folder / "jobs").glob("*/upload-*"))
    return {**counts, "ffmpeg_left": sum("ffmpeg" in name for name in children), "uploads_left": len(sources)}


def nano_source(folder: Path) -> tuple[Path, ModelSource]:
    """The folder of nano, and an adapter on it of the size that params.yaml trains."""
    values = params.load(Path(__file__).parents[1] / "params.yaml")
    backbone = materialize(values.backbone, folder / "nano")
    transformer = load(backbone).transformer
    lora = values.train.model_dump(include={"rank", "alpha", "targets"})
    adapters.add_lora(transformer, dropout=0.0, **lora)
    draft = Adapter.draft(folder / "adapter", Lineage(step="train", params={}, backbone=backbone.digest))
    draft.write(adapters.WEIGHTS, adapters.lora_bytes(transformer, {}))
    mode = values.train.model_dump(include={"reference_positions", "reference_attention", "isolate_modalities"})
    adapter = draft.seal({**lora, **mode})
    return backbone.path, ModelSource.of_adapter(adapter, values, backbone)


def swaps(backbone: Path, source: ModelSource, num_swaps: int) -> dict[str, float]:
    """Seconds to load another adapter onto nano in memory, to switch between two that are loaded, and to unload one; medians."""
    base = cast(Dubber, opening.open_dubber(backbone, source))
    figures: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        result = work()
        figures.setdefault(f"{name}_s", []).append(time.perf_counter() - begin)
        figures.setdefault(f"{name}_cpu_s", []).append(time.process_time() - begin_cpu)
        return result

    for _ in range(num_swaps):
        other = timed("load", lambda: opening.open_dubber(backbone, source, beside=base))
        timed("switch", lambda: activate_loras(base.modules.transformer, base.active_adapters))
        timed("unload", other.detach)
    return {name: round(float(np.median(values)), 3) for name, values in figures.items()}


def batches(backbone: Path, source: ModelSource, num_rounds: int) -> dict[str, float]:
    """Seconds of processor time that nano takes for one clip, alone and in batches of 2 and 4, in turn; medians."""
    dubber = cast(BatchDubber, opening.open_dubber(backbone, source))
    size, line = source.size, Line(language="es", text="uno dos tres")
    clip = small_clip(num_frames=size.num_frames, side=size.height, rate=size.frame_rate)
    figures: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(num_rounds):
        for count, values in figures.items():
            begin = time.process_time()
            dubber.dub_batch([clip] * count, [line] * count, range(count))
            values.append((time.process_time() - begin) / count)
    return {f"clip_in_batch_of_{count}_cpu_s": round(float(np.median(values)), 2) for count, values in figures.items()}


def _mutated(video: bytes, generator: random.Random) -> bytes:
    data = bytearray(video)
    for _ in range(generator.randint(1, 20)):
        place = generator.randrange(len(data))
        match generator.randrange(4):
            case 0:
                data[place] = generator.randrange(256)
            case 1:
                del data[place : place + generator.randrange(64)]
            case 2:
                data[place:place] = data[place : place + 64]
            case _:
                data[place : place + 4] = generator.randbytes(4)
    return bytes(data[: generator.randrange(1, len(data))] if generator.random() < 0.1 else data)


def main() -> None:
    """Print the figures as JSON, one line a question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--swaps", type=int, default=5)
    parser.add_argument("--batches", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = nano_source(Path(folder)) if options.swaps or options.batches else None
        if model is not None and options.swaps:
            _print("swaps", swaps(*model, options.swaps))
        if model is not None and options.batches:
            _print("batches", batches(*model, options.batches))
        if not (options.kills or options.uploads or options.seconds):
            return
        server = Server(Path(folder))
        if options.kills:
            _print("kills", kills(server, options.kills))
        if options.uploads:
            _print("uploads", mutated_uploads(server, options.uploads))
        if options.seconds:
            _print("latency", latencies(server, options.seconds))
        server.process.send_signal(signal.SIGTERM)
        server.process.wait()


def _print(name: str, figures: dict[str, Any]) -> None:
    print(json.dumps({name: figures}), flush=True)  # noqa: T201 (its output)


if __name__ == "__main__":
    main()
