"""Signatures of webhooks, as standardwebhooks.com defines them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping


def webhook_signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """The signature of a webhook (standardwebhooks.com): HMAC-SHA256 of id, time and body; `whsec_…` is base64."""
    encoded = secret.removeprefix("whsec_")
    key = base64.b64decode(encoded) if encoded != secret else secret.encode()
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"


def is_webhook_genuine(secret: str, headers: Mapping[str, str], body: bytes, *, max_age_seconds: float = 300.0) -> bool:
    """Whether a received webhook was signed with `secret`, and lately; header names are in lower case."""
    timestamp = headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > max_age_seconds:
        return False
    expected = webhook_signature(secret, headers.get("webhook-id", ""), timestamp, body)
    return any(hmac.compare_digest(expected, one) for one in headers.get("webhook-signature", "").split())
