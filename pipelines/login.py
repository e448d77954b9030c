"""How to log in to Kubeflow Pipelines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dubmill.errors import UsageError

TOKEN_FILE = Path("/var/run/secrets/kubeflow/pipelines/token")  # where Kubeflow projects a service account's token
TOKEN_FILE_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"


@dataclass(frozen=True)
class Login:
    """How to log in; all empty where Kubeflow has no login. A service account's token is read from its file each time."""

    token: str = ""
    cookie: str = ""
    token_file: Path | None = None

    @property
    def current_token(self) -> str:
        """The bearer token to send now, or an empty string."""
        if self.token_file is None:
            return self.token
        try:
            return self.token_file.read_text().strip()
        except OSError as error:
            raise UsageError(
                f"the token cannot be read ({error.strerror})",
                where=str(self.token_file),
                cure="give the path of a service account token",
            ) from error

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of a request."""
        token = self.current_token
        return ({"Authorization": f"Bearer {token}"} if token else {}) | (
            {"Cookie": self.cookie} if self.cookie else {}
        )


def default_token_file() -> Path | None:
    """Returns the token file of a pod that may call Kubeflow; None outside of such a pod."""
    path = Path(os.environ.get(TOKEN_FILE_VARIABLE) or TOKEN_FILE)
    return path if path.is_file() else None
