"""Who calls: by API key, by a header that the cluster's gateway sets, or anybody."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dubmill.errors import UsageError
from dubmill.serving.problems import UnauthorizedError

ANYBODY = "anonymous"


@dataclass(frozen=True)
class Callers:
    """The callers a server knows: sha256 of each API key with its owner, or the name of a header that names the caller; and their quotas.

    A header is to be trusted only where a gateway sets it and removes it from what comes in.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    identity_header: str = ""
    quotas: Mapping[str, float] = field(default_factory=dict)  # seconds of video a month, by owner

    @classmethod
    def read(cls, path: Path | None, identity_header: str) -> Callers:
        """The callers of a file with a line `OWNER SHA256-OF-KEY [SECONDS-A-MONTH]` for each key; without a file, none.

        Raises:
            UsageError: the file cannot be read, or a line is something else, or an owner has two quotas.
        """
        if path is None:
            return cls({}, identity_header)
        try:
            lines = [line.split() for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
        except OSError as error:
            raise UsageError(
                f"it cannot be read ({error.strerror})", where=str(path), cure="give the file of API keys"
            ) from error
        quotas = {(line[0], line[2]) for line in lines if len(line) == 3}
        is_quota = all(seconds.isdecimal() for _, seconds in quotas) and len(dict(quotas)) == len(quotas)
        if not lines or not is_quota or any(len(line) not in (2, 3) or len(line[1]) != 64 for line in lines):
            cure = "write lines of an owner, the sha256 of a key, and where wanted whole seconds a month, one number for an owner"
            raise UsageError("not a file of API keys", where=str(path), cure=cure)
        seconds_of = {owner: float(seconds) for owner, seconds in quotas}
        return cls({line[1].lower(): line[0] for line in lines}, identity_header, seconds_of)

    def identify(self, headers: Mapping[bytes, bytes]) -> str:
        """The caller of a request.

        Raises:
            UnauthorizedError: keys or an identity are needed, and the request has none that is known.
        """
        if self.keys:
            return self._owner_of_key(headers)
        if not self.identity_header:
            return ANYBODY
        identity = headers.get(self.identity_header.lower().encode(), b"").decode("latin-1").strip()
        if not identity:
            raise UnauthorizedError(
                "nobody is named", cure=f"call through the gateway that sets {self.identity_header}"
            )
        return identity[:200]

    def _owner_of_key(self, headers: Mapping[bytes, bytes]) -> str:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        key = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = hashlib.sha256(key).hexdigest()
        for known, owner in self.keys.items():
            if hmac.compare_digest(known, digest):
                return owner
        raise UnauthorizedError("no API key, or an unknown one", cure="send `Authorization: Bearer KEY`")
