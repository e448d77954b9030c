"""The endpoint's bounds: latency under load, overhead, exchanged adapters, memory, start, hostile uploads, kills.

Run with `PYTHONPATH=tests python benchmarks/endpoint.py [--latency 8] [--kills 20] [--uploads 200] [--jobs 500] [--starts 2] [--swaps 5]
[--overhead 5] [--batches 0] [--nano_jobs 0]`, or one part with `--only NAME`; a part with 0 is left out. For latency, memory, uploads and kills a
tone stands in for the model (`doubles.dubbers`), so that what is measured is the server: API, queue, worker, media. The other parts take
nano itself, with random LoRA weights of the size that params.yaml trains.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
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
from dubmill.artifacts.store import Adapter, Release
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
NUM_JOBS = 50  # queued at each kill
ROOM = ("--max_waiting", "20000", "--max_per_caller", "20000", "--grace_seconds", "20")
BOUNDARY = "part-of-the-form"
LONGEST_SECONDS = 120.0  # for which one job is waited for: a longer one hangs
PARTS = ("latency", "kills", "uploads", "jobs", "starts", "swaps", "overhead", "batches", "nano_jobs")

# part, figure in it, bound; a figure that is larger misses it
BOUNDS = (
    ("latency", "submit_p99_ms", 50.0),
    ("latency", "status_p99_ms", 10.0),
    ("overhead", "beyond_the_model_percent", 3.0),
    ("swaps", "load_s", 1.0),
    ("swaps", "switch_s", 1.0),
    ("memory", "worker_plus_minus_percent", 2.0),
    ("memory", "api_plus_minus_percent", 2.0),
    ("start", "start_to_ready_s", 10.0),
    ("uploads", "not_a_clear_4xx", 0),
    ("uploads", "hung", 0),
    ("uploads", "children_left", 0),
    ("uploads", "files_left", 0),
    ("kills", "lost", 0),
    ("kills", "entered_twice", 0),
)


class Server:
    """The server process in a folder, killed and started again at will."""

    def __init__(self, folder: Path, *, clip: bytes, more: Sequence[str] = ROOM) -> None:
        self.folder, self.clip, self._more = folder, clip, more
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> float:
        """Start it; returns the seconds until it is ready."""
        started = time.monotonic()
        own, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), str(self.temporary)
        self.process, self.port = dubbing_server.start(self.folder, more=self._more)
        os.environ.pop("TMPDIR")
        os.environ.update({"TMPDIR": own} if own else {})
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120.0)
        DubClient(str(self.http.base_url)).wait_until_ready(seconds=300)
        return time.monotonic() - started

    def stop(self) -> None:
        """Stop it as an operator does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def submit(self, video: bytes, **fields: Any) -> httpx.Response:
        """The answer to one submission."""
        form = {"language": "es", "text": "uno dos tres", "consent": CONSENT, **fields}
        return self.http.post("/v1/dubs", data=form, files={"video": ("in.mp4", video, "video/mp4")})

    def wait(self, job_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The jobs once they are over, or have not been for `LONGEST_SECONDS`."""
        jobs, until = [], time.monotonic() + LONGEST_SECONDS
        for job_id in job_ids:
            while (job := self.http.get(f"/v1/dubs/{job_id}").json())["state"] in ("queued", "running"):
                if time.monotonic() > until:
                    break
                time.sleep(0.02)
            else:
                until = time.monotonic() + LONGEST_SECONDS
            jobs.append(job)
        return jobs

    def dub(self, num_jobs: int) -> list[dict[str, Any]]:
        """So many jobs at once, once they are over."""
        return self.wait([self.submit(self.clip, seed=index).json()["id"] for index in range(num_jobs)])


class Caller:
    """A client that costs little processor time itself: a connection for each thread, and bodies made before."""

    def __init__(self, port: int) -> None:
        self._port, self._local = port, threading.local()

    def ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        """The JSON of an answer."""
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        connection = self._local.connection
        connection.request(method, path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status in (200, 202), data
        return json.loads(data)


def form_of(video: bytes, text: str) -> bytes:
    """The body of a submission."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in {"language": "es", "text": text, "consent": CONSENT}.items()
    ]
    start = "".join(parts) + f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="video"; filename="in.mp4"\r\n\r\n'
    return start.encode() + video + f"\r\n--{BOUNDARY}--\r\n".encode()


def latencies(server: Server, seconds: float) -> dict[str, float]:
    """Milliseconds of submissions and of status requests, each at `RATE_HZ` in its turn while a dub runs, and the API's processor time for each."""
    (server.folder / "held").touch()
    caller, api = Caller(server.port), psutil.Process(server.process.pid)
    first = caller.ask("POST", "/v1/dubs", form_of(server.clip, "lento"))["id"]
    body, figures, ids = form_of(server.clip, "uno"), {}, [first]

    def timed(work: Callable[[], dict[str, Any]]) -> float:
        started = time.perf_counter()
        ids.append(work()["id"])
        return 1000 * (time.perf_counter() - started)

    works = {
        "submit": lambda: caller.ask("POST", "/v1/dubs", body),
        "status": lambda: caller.ask("GET", f"/v1/dubs/{first}"),
    }
    for name, work in works.items():
        before = sum(api.cpu_times()[:2])
        with ThreadPoolExecutor(32) as pool:
            futures, begin = [], time.monotonic()
            for index in range(round(seconds * RATE_HZ)):
                time.sleep(max(0.0, begin + index / RATE_HZ - time.monotonic()))
                futures.append(pool.submit(timed, work))
            values = [future.result() for future in futures]
        figures |= {
            f"{name}_p50_ms": float(np.percentile(values, 50)),
            f"{name}_p99_ms": float(np.percentile(values, 99)),
            f"{name}_cpu_ms": 1000 * (sum(api.cpu_times()[:2]) - before) / len(values),
        }
    for job_id in reversed(list(dict.fromkeys(ids))):
        server.http.delete(f"/v1/dubs/{job_id}")
    (server.folder / "held").unlink()
    return figures


def kills(server: Server, num_kills: int) -> dict[str, Any]:
    """Kill the server `num_kills` times, each time while `NUM_JOBS` jobs are queued or running; counts of jobs lost and made twice."""
    generator, ids, open_ids, starts = random.Random(0), [], [], []
    for _ in range(num_kills):
        states = {job_id: server.http.get(f"/v1/dubs/{job_id}").json()["state"] for job_id in open_ids}
        open_ids = [job_id for job_id, state in states.items() if state in ("queued", "running")]
        more = [server.submit(server.clip, seed=index).json()["id"] for index in range(NUM_JOBS - len(open_ids))]
        ids, open_ids = ids + more, open_ids + more
        time.sleep(generator.uniform(0.0, 1.0))
        server.process.kill()
        server.process.wait()
        starts.append(server.start())
    jobs = server.wait(ids)
    entered = Counter(json.loads(line)["job"] for line in (server.folder / "consent.jsonl").read_text().splitlines())
    verify_ledger(server.folder / "consent.jsonl")
    return {
        "kills": num_kills,
        "jobs": len(ids),
        "queued_at_each": NUM_JOBS,
        "lost": sum(job["state"] != "done" for job in jobs),
        "entered_twice": sum(entered[job_id] > 1 for job_id in ids),
        "tone_start_to_ready_s": float(np.median(starts)),
    }


def mutated_uploads(server: Server, num_uploads: int) -> dict[str, Any]:
    """Answers to clips of which some bytes were changed, removed or repeated: by status and code; jobs that hang, children and files left."""
    generator, counts, hung, unclear = random.Random(num_uploads), Counter[str](), 0, 0
    longest, done = 0.0, []
    for start in range(0, num_uploads, 50):
        begin, problems, ids = time.monotonic(), [], []
        for _ in range(min(50, num_uploads - start)):
            answer = server.submit(_mutated(server.clip, generator))
            if answer.status_code == 202:
                ids.append(answer.json()["id"])
            else:
                problems.append(answer.json() | {"status": answer.status_code})
        for job in server.wait(ids):
            hung += job["state"] in ("queued", "running")
            if job["state"] == "failed":
                problems.append(job["problem"])
            elif job["state"] == "done":
                done.append(job["id"])
        longest = max(longest, time.monotonic() - begin)
        counts.update(f"{one['status']} {one.get('code', 'without a code')}" for one in problems)
        unclear += sum(
            not 400 <= one["status"] < 500 or not one.get("code") or not one.get("detail") for one in problems
        )
    children = [child.name() for child in psutil.Process(server.process.pid).children(recursive=True)]
    results = {server.folder / "jobs" / job_id / "result.mp4" for job_id in done}
    kept = (path for name in ("jobs/*/**/*", "tmp/**/*") for path in server.folder.glob(name))
    left = [path for path in kept if path.is_file() and path not in results and "projects" not in path.parts]
    return {
        "uploads": num_uploads,
        "could_be_dubbed": len(done),
        **counts,
        "not_a_clear_4xx": unclear,
        "hung": hung,
        "slowest_50_s": longest,
        "children_left": sum("ffmpeg" in name for name in children),
        "files_left": len(left),
    }


def memory(server: Server, num_jobs: int) -> dict[str, Any]:
    """Memory of the API and the worker (unique set size) after every 25 jobs, of which the first 50 warm up: mean, and half the range in percent of it."""
    api = psutil.Process(server.process.pid)
    processes = {"api": api, "worker": api.children()[0]}
    sizes: dict[str, list[float]] = {name: [] for name in processes}
    for index in range(0, num_jobs + 50, 25):
        assert all(job["state"] == "done" for job in server.dub(25))
        if index >= 50:
            time.sleep(0.5)
            for name, process in processes.items():
                sizes[name].append(process.memory_full_info().uss / 2**20)
    figures: dict[str, Any] = {"jobs": num_jobs}
    for name, values in sizes.items():
        mean = float(np.mean(values))
        figures |= {f"{name}_MiB": mean, f"{name}_first_MiB": values[0], f"{name}_last_MiB": values[-1]}
        figures[f"{name}_plus_minus_percent"] = 50 * (max(values) - min(values)) / mean
    return figures


def nano_release(folder: Path, backbone: Path, source: ModelSource) -> Path:
    """A release of the adapter, as the server takes it, in `folder`, beside a link to the backbone."""
    size = source.size
    folder.mkdir()
    (folder / "backbone").symlink_to(backbone)
    draft = Release.draft(folder / "release", Lineage(step="promote", params={}, backbone=source.backbone))
    draft.path.mkdir(parents=True, exist_ok=True)
    for path in source.adapter.rglob("*"):
        if path.is_file():
            draft.write(f"adapter/{path.relative_to(source.adapter)}", path.read_bytes())
    draft.write("selftest.clip", _nano_clip(size).to_bytes())
    clip = {"num_frames": size.num_frames, "height": size.height, "width": size.width}
    clip |= {"frame_rate": str(size.frame_rate), "sample_rate_hz": size.sample_rate_hz}
    values = {"backbone": source.backbone, "version": "1", "clip": clip, "sampling": dict(source.sampling)}
    draft.seal({**values, "selftest": {"language": "es", "text": "uno dos tres"}, "strength": source.strength})
    return folder


def starts(folder: Path, num_starts: int) -> dict[str, Any]:
    """Seconds from the start of `python -m dubmill.serving` on nano until it is ready, and processor seconds of both processes; medians."""
    figures: dict[str, list[float]] = {"start_to_ready_s": [], "api_cpu_s": [], "worker_cpu_s": []}
    for _ in range(num_starts):
        port, started = dubbing_server.free_port(), time.monotonic()
        options = {"backbone": folder / "backbone", "release": folder / "release", "jobs": folder / "start-jobs"}
        options |= {"ledger": folder / "start.jsonl", "host": "127.0.0.1", "http_port": port}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "dubmill.serving", *words]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not _is_ready(port):
            assert process.poll() is None, "the server ended"
            time.sleep(0.05)
        figures["start_to_ready_s"].append(time.monotonic() - started)
        api = psutil.Process(process.pid)
        figures["api_cpu_s"].append(sum(api.cpu_times()[:2]))
        figures["worker_cpu_s"].append(sum(api.children()[0].cpu_times()[:2]))
        process.terminate()
        process.wait()
    return {name: float(np.median(values)) for name, values in figures.items()}


def overhead(server: Server, num_jobs: int) -> dict[str, float]:
    """Seconds of a job of nano, alone, from before its submission until it is seen done; those in the model's calls, and the rest; medians."""
    log = Path(os.environ[dubbing_server.MODEL_SECONDS])
    server.dub(1)
    log.write_text("")
    seconds = []
    for _ in range(num_jobs):
        started = time.monotonic()
        (job,) = server.dub(1)
        assert job["state"] == "done", job
        seconds.append(time.monotonic() - started)
    in_model, whole = (float(np.median(values)) for values in (np.loadtxt(log), seconds))
    beyond = whole - in_model
    return {
        "job_s": whole,
        "model_s": in_model,
        "beyond_the_model_s": beyond,
        "beyond_the_model_percent": 100 * beyond / whole,
    }


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _nano_clip(size: Any) -> Any:
    return small_clip(num_frames=size.num_frames, side=size.height, rate=size.frame_rate)


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
    clip = _nano_clip(size)
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
    """Print the figures of each part as a line of JSON, and then each bound with its figure."""
    options = parse()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in (*_nano_parts(options, Path(folder)), *_tone_parts(options, Path(folder))):
            started = time.monotonic()
            figures = part()
            found[name] = {
                key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()
            }
            print(json.dumps({name: found[name], "took_s": round(time.monotonic() - started)}), flush=True)  # noqa: T201
    for name, figure, bound in BOUNDS:
        if name in found:
            value = found[name][figure]
            verdict = "kept" if value <= bound else "MISSED"
            print(f"{verdict:7}{name}: {figure} {value:g}, bound {bound:g}")  # noqa: T201 (its output)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, where the numbers of the parts that are not wanted are 0."""
    parser = _arguments()
    options = parser.parse_args(words)
    for name in PARTS if options.only else ():
        if name not in options.only:
            setattr(options, name, 0)
        elif not getattr(options, name):
            parser.error(f"--only {name} runs nothing while --{name} is 0: give --{name} a number too")
    return options


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=8.0, help="seconds at 100 requests a second, of each kind")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--uploads", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=500, help="over which memory is watched")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--swaps", type=int, default=5)
    parser.add_argument("--overhead", type=int, default=5, help="number of jobs on nano")
    parser.add_argument("--batches", type=int, default=0, help="rounds of batches of 1, 2 and 4 clips")
    parser.add_argument("--nano_jobs", type=int, default=0, help="jobs on nano itself over which memory is watched")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=[], help="parts to run, as their options are called"
    )
    return parser


Part = tuple[str, Callable[[], dict[str, Any]]]


def _nano_parts(options: argparse.Namespace, folder: Path) -> list[Part]:
    if not any((options.starts, options.swaps, options.overhead, options.batches, options.nano_jobs)):
        return []
    backbone, source = nano_source(folder)
    served = nano_release(folder / "served", backbone, source)

    def on_server(work: Callable[[Server], dict[str, Any]]) -> dict[str, Any]:
        os.environ[dubbing_server.MODEL_SECONDS] = str(folder / "model-seconds")
        (folder / "model-seconds").touch()
        server = Server(served, clip=media.mp4_bytes(_nano_clip(source.size)))
        try:
            return work(server)
        finally:
            server.stop()
            del os.environ[dubbing_server.MODEL_SECONDS]

    parts: dict[str, tuple[int, Callable[[], dict[str, Any]]]] = {
        "start": (options.starts, lambda: starts(served, options.starts)),
        "swaps": (options.swaps, lambda: swaps(backbone, source, options.swaps)),
        "batches": (options.batches, lambda: batches(backbone, source, options.batches)),
        "overhead": (options.overhead, lambda: on_server(lambda server: overhead(server, options.overhead))),
        "nano_memory": (options.nano_jobs, lambda: on_server(lambda server: memory(server, options.nano_jobs))),
    }
    return [(name, work) for name, (number, work) in parts.items() if number]


def _tone_parts(options: argparse.Namespace, folder: Path) -> list[Part]:
    works: dict[str, tuple[Callable[[Server, Any], dict[str, Any]], Any]] = {
        "latency": (latencies, options.latency),
        "memory": (memory, options.jobs),
        "uploads": (mutated_uploads, options.uploads),
        "kills": (kills, options.kills),
    }

    def part(name: str) -> dict[str, Any]:
        work, number = works[name]
        server = Server(folder / name, clip=media.mp4_bytes(small_clip()))
        try:
            return work(server, number)
        finally:
            server.stop()

    return [(name, lambda name=name: part(name)) for name, (_, number) in works.items() if number]


if __name__ == "__main__":
    main()
