"""The studio page, clicked in headless Chromium: `DUBMILL_CHROMIUM=/usr/bin/chromium pytest tests/test_studio.py`."""

import base64
import itertools
import json
import os
import signal
import subprocess
import time

import httpx
import pytest
from doubles import dubbing_server
from doubles.releases import tiny_release
from websockets.sync.client import connect

from dubmill.artifacts.store import Backbone
from dubmill.client import DubClient

CHROMIUM = os.environ.get("DUBMILL_CHROMIUM", "")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="a browser of 300 MB; DUBMILL_CHROMIUM=PATH runs it")


class Page:
    """A page in Chromium, over its DevTools protocol."""

    def __init__(self, socket, url, folder):
        self.socket, self.url, self.folder, self.ids = socket, url, folder, itertools.count()
        self.call("Page.navigate", url=url)

    def call(self, method, **params):
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv(timeout=60))).get("id") != number:
            pass
        return answer["result"]

    def value(self, expression):
        """What the page's JavaScript gives for `expression`."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return found["result"].get("value")

    def wait_for(self, expression):
        return wait_for(lambda: self.value(expression))

    def click(self, name):
        """A real click in the middle of the element with that id."""
        self.value(f"document.getElementById('{name}').scrollIntoView({{block: 'center'}})")
        box = (
            f"(b => [b.x + b.width / 2, b.y + b.height / 2])(document.getElementById('{name}').getBoundingClientRect())"
        )
        x, y = self.value(box)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def shot(self, name, width, height):
        """A screenshot, named in the test's folder."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        data = self.call("Page.captureScreenshot")["data"]
        (self.folder / f"{name}.png").write_bytes(base64.b64decode(data))
        return self.value("document.documentElement.scrollWidth <= innerWidth")


def wait_for(work, seconds=120):
    until = time.monotonic() + seconds
    while not (found := work()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)
    return found


def tabs_of(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/json", timeout=5).json()
    except httpx.HTTPError:
        return []


@pytest.fixture
def page(tmp_path):
    server, http_port = dubbing_server.start(tmp_path, more=["--adapters", str(tmp_path / "adapters")])
    tiny_release(tmp_path / "adapters" / "french", Backbone.open(tmp_path / "backbone"), version="8", languages=["fr"])
    port, url = dubbing_server.free_port(), f"http://127.0.0.1:{http_port}"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1000"]
    options += [f"--remote-debugging-port={port}", f"--user-data-dir={tmp_path / 'profile'}", "about:blank"]
    browser = subprocess.Popen([CHROMIUM, *options], stderr=subprocess.DEVNULL)
    try:
        DubClient(url).wait_until_ready(seconds=300)
        tabs = wait_for(lambda: tabs_of(port))
        address = next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"]
        with connect(address, max_size=None) as socket:
            yield Page(socket, url, tmp_path)
    finally:
        browser.kill()
        browser.wait()
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=120)


def test_a_clip_is_dubbed_by_clicks_with_the_adapter_that_was_chosen(page):
    page.wait_for("document.getElementById('state').className === 'ready'")
    page.wait_for("document.getElementById('adapter').options.length === 3")
    names = page.value("[...document.getElementById('adapter').options].map(option => option.text)")
    assert names == ["the one for the language", "release 7 (en, es)", "french 8 (fr)"]
    page.click("sample")
    page.wait_for("!document.getElementById('source').hidden")
    page.click("go")
    page.wait_for("document.getElementById('message').textContent.startsWith('Say who is shown')")
    page.value("document.getElementById('language').value = 'fr'; document.getElementById('adapter').value = 'french'")
    page.click("who")
    page.call("Input.insertText", text="Ana Ruiz")
    page.click("agreed")
    page.click("label")
    page.click("go")
    page.wait_for("!document.getElementById('download').hidden")
    assert page.wait_for("document.getElementById('dub').videoWidth") == 64
    job = httpx.get(f"{page.url}/v1/dubs", timeout=30).json()["dubs"][0]
    assert (job["result"]["model_version"], job["language"]) == ("8", "fr")
    assert page.shot("desk", 1200, 1000), "nothing is wider than the window"
    assert page.shot("tablet", 800, 1100), "nothing is wider than the window"
    assert page.shot("phone", 390, 1500), "nothing is wider than the window"
