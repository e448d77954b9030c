"""The notice at the end of a run, told to a webhook on loopback."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from dubmill.tracking.notices import Notice, send


@pytest.fixture
def webhook():
    """A webhook: what it was told, and the status that it answers with."""
    told, answer = [], {"status": 200}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answer["status"])
            self.end_headers()

        def log_message(self, *_):
            """Nothing on the screen."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/T0/secret", told, answer
    server.shutdown()
    server.server_close()


def test_the_webhook_is_told_which_run_ended_and_how(webhook, monkeypatch):
    address, told, _ = webhook
    monkeypatch.setenv("DUBMILL_WEBHOOK", address)
    monkeypatch.setenv("KFP_RUN_ID", "run-7")
    notice = Notice.of("dubmill-data", "FAILED", "too few pairs")
    assert send(notice) == "The notice was sent."
    assert told[0]["text"] == "dubmill-data run-7 failed: too few pairs"
    assert "| error | too few pairs |" in notice.markdown


def test_a_webhook_that_refuses_fails_nothing_and_its_address_is_not_shown(webhook, monkeypatch, caplog):
    address, told, answer = webhook
    answer["status"] = 500
    monkeypatch.setenv("DUBMILL_WEBHOOK", address)
    assert send(Notice.of("dubmill-data", "SUCCEEDED", "")) == "The notice was not sent (HTTP 500)."
    assert len(told) == 3
    assert "secret" not in caplog.text
    monkeypatch.setenv("DUBMILL_WEBHOOK", "no address")
    assert "was not sent" in send(Notice.of("dubmill-data", "SUCCEEDED", ""))


def test_without_a_webhook_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("DUBMILL_WEBHOOK", raising=False)
    assert send(Notice.of("dubmill-data", "SUCCEEDED", "")) == "No webhook is set."
