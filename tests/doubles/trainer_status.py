"""The status server of Kubeflow Trainer 2.3 on loopback, with TLS: what pods report becomes `status.trainerStatus` of their TrainJob.

Rules (pkg/statusserver and trainjob_types.go of kubeflow/trainer): only POST of the job's own path; one Bearer token, valid for this job
and not expired; at most 64 KiB; the body decodes into the fields' Go types, and unknown fields are passed over; a report without
trainerStatus changes nothing; a percentage from 0 to 100, seconds from 0, at most 256 metrics whose names and values are strings of 1 to
64 characters, `lastUpdatedTime` is required (RFC 3339). A report replaces the one before (server-side apply by one manager).
"""

from __future__ import annotations

import http.server
import ipaddress
import json
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from doubles.loopback import Loopback

PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/dubmill/trainjobs/dubmill-train-1/status"
MAX_BYTES = 1 << 16
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class TrainerStatus(Loopback):
    """The server; `folder` gets its certificate and the pod's token, and `variables` are those that the controller gives a pod."""

    def __init__(self, folder: Path) -> None:
        self.statuses: list[dict[str, Any]] = []  # as stored in the TrainJob, one after another
        self.refusals: list[int] = []
        self.tokens, self.has_job = {"token-1"}, True
        super().__init__(_handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(folder / "ca.crt"))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        (folder / "token").write_text("token-1\n")
        self.variables = {
            "KUBEFLOW_TRAINER_SERVER_URL": f"{self.address.replace('http:', 'https:')}{PATH}",
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(folder / "ca.crt"),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(folder / "token"),
        }

    def answer(self, path: str, headers: Any, body: bytes) -> int:
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if path != PATH or len(body) > MAX_BYTES:
            return 404 if path != PATH else 413
        if scheme.lower() != "bearer" or token not in self.tokens:
            return 403
        try:
            status = json.loads(body).get("trainerStatus")
        except ValueError:
            return 422
        if status is None:
            return 200
        if not is_valid(status):
            return 422
        if self.has_job:
            self.statuses.append(status)
        return 200 if self.has_job else 404


def is_valid(status: dict[str, Any]) -> bool:
    """Whether Go decodes a TrainerStatus and the CRD takes it."""
    numbers = [status.get("progressPercentage", 0), status.get("estimatedRemainingSeconds", 0)]
    metrics = status.get("metrics", [])
    texts = [one.get(field) for one in metrics for field in ("name", "value")]
    return (
        all(type(number) is int and 0 <= number < 2**31 for number in numbers)
        and numbers[0] <= 100
        and len(metrics) <= 256
        and all(isinstance(text, str) and 1 <= len(text) <= 64 for text in texts)
        and RFC_3339.fullmatch(status.get("lastUpdatedTime", "")) is not None
    )


def _certificate(path: Path) -> Path:
    """Writes a certificate of 127.0.0.1 that signs itself to `path`; returns a file of it and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "trainer")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(pem)
    both = path.with_suffix(".pem")
    both.write_bytes(pem + key.private_bytes(*encoding))
    return both


def _handler(api: TrainerStatus) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            code = api.answer(self.path, self.headers, self.rfile.read(int(self.headers["Content-Length"])))
            api.refusals += [code] if code != 200 else []
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on the screen."""

    return Handler
