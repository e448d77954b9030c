"""The studio's pages, clicked in headless Chromium: `DUBMILL_CHROMIUM=/usr/bin/chromium pytest tests/test_studio.py`."""

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
from doubles.releases import small_clip, tiny_release
from websockets.sync.client import connect

from dubmill import media
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

    def choose_file(self, name, path):
        """Choose a file in the input with that id, as its dialog does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=f"#{name}")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def type_into(self, selector, text):
        """Replace the text of an input by keys, and leave it."""
        self.value(f"document.querySelector('{selector}').select()")
        self.call("Input.insertText", text=text)
        self.value("document.activeElement.blur()")

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
    server, http_port = dubbing_server.start(
        tmp_path, more=["--adapters", str(tmp_path / "adapters"), "--c2pa_key", "development"]
    )
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
    facts = page.wait_for(
        "(text => text.includes('as it was signed') && text)(document.getElementById('facts').innerText)"
    )
    assert "C2PA, signed by development signer (dubmill development), a development certificate" in facts
    assert "version 8, seed 1, into fr" in facts
    page.click("again")
    page.wait_for("document.getElementById('facts').innerText.includes('seed 2')")
    assert page.shot("desk", 1200, 1000), "nothing is wider than the window"
    assert page.shot("tablet", 800, 1100), "nothing is wider than the window"
    assert page.shot("phone", 390, 1500), "nothing is wider than the window"


def test_the_facts_are_those_of_the_dub_that_is_shown_last(page):
    """The answer on an earlier dub's credentials came into the list of a later one; a damaged file was signed by undefined."""
    page.wait_for("document.getElementById('state').className === 'ready'")
    texts = page.value("""(async () => {
      const answers = {};
      json = path => new Promise(resolve => { answers[path] = resolve; });
      const result = {seconds: 1, size: "64x64", num_bytes: 1, model_version: "7", seed: 1, language: "es", consent_entry: ""};
      const dub = name => ({started: 0, finished: 0, links: {credentials: `/${name}`}, result});
      const first = showFacts(dub("first")), second = showFacts(dub("second"));
      answers.second({has_manifest: false, is_readable: false, failures: ["it is empty"]});
      await second;
      answers.first({has_manifest: true, signer: "Ana", issuer: "the first", failures: [], is_unchanged: true});
      await first;
      const told = $("facts").textContent, third = showFacts(dub("third"));
      answers.third({has_manifest: true, signer: "", issuer: "", failures: ["claimSignature.missing"], is_unchanged: false});
      await third;
      return [told, $("facts").textContent];
    })()""")
    assert texts[0].endswith("Credentialscannot be read, the file is damaged (it is empty)")
    assert "its signature cannot be read" in texts[1]


SCRIPT = "1\n00:00:00,400 --> 00:00:01,200\nuno\n\n2\n00:00:02,000 --> 00:00:02,800\ndos\n"


def test_a_film_is_opened_corrected_dubbed_again_and_rendered_in_two_languages_by_clicks(page, tmp_path):
    (tmp_path / "film.mp4").write_bytes(media.mp4_bytes(small_clip(num_frames=40)))
    (tmp_path / "es.srt").write_text(SCRIPT)
    (tmp_path / "en.srt").write_text(SCRIPT.replace("uno", "one").replace("dos", "two"))
    page.call("Page.navigate", url=f"{page.url}/films")
    page.wait_for("document.getElementById('state')?.className === 'ready'")
    page.wait_for("!document.getElementById('none').hidden")
    page.value("document.getElementById('language').value = 'es'")
    page.choose_file("film", tmp_path / "film.mp4")
    page.choose_file("script-file", tmp_path / "es.srt")
    page.wait_for("document.getElementById('script').value.includes('dos')")
    page.type_into("#reference", "Reel 1")
    page.click("create")
    page.wait_for("document.getElementById('message').textContent.startsWith('Say who is shown')")
    assert page.shot("films-new", 1200, 1000), "nothing is wider than the window"
    page.type_into("#who", "Ana Ruiz")
    page.click("agreed")
    page.click("create")
    page.wait_for("document.querySelectorAll('.segments li').length === 2")
    page.type_into(".segments li:nth-child(2) .words", "tres")
    states = "[...document.querySelectorAll('.chip')].map(chip => chip.textContent).join()"
    page.wait_for("document.querySelector('.segments li:nth-child(2) .words').value === 'tres' && !busy")
    page.value("document.querySelector('.redo').click()")
    page.wait_for(f"{states} === 'dubbed,to dub' && !busy")
    page.click("render")
    page.wait_for(f"!document.getElementById('download').hidden && {states} === 'dubbed,dubbed' && !busy")
    assert page.wait_for("document.getElementById('dub').videoWidth") == 64
    page.wait_for("document.getElementById('facts').innerText.includes('signed by development signer')")
    page.click("play")
    page.wait_for(
        "document.getElementById('dub').currentTime > 0.2 && document.getElementById('source').currentTime > 0.2"
    )
    for name, width, height in (("films-desk", 1200, 1150), ("films-tablet", 800, 1200), ("films-phone", 390, 1700)):
        assert page.shot(name, width, height), "nothing is wider than the window"
    page.value("document.getElementById('other').value = 'en'")
    page.choose_file("other-file", tmp_path / "en.srt")
    page.click("put")
    page.wait_for("document.querySelector('.segments li:nth-child(2) .words').value === 'two' && !busy")
    assert page.value("document.getElementById('download').hidden")
    page.click("render")
    page.wait_for(f"!document.getElementById('download').hidden && {states} === 'dubbed,dubbed' && !busy")
    jobs = httpx.get(f"{page.url}/v1/dubs", timeout=30).json()["dubs"]
    assert [(job["task"], job["language"]) for job in jobs] == [
        ("render", "en"),
        ("render", "es"),
        ("redo", "es"),
        ("open", "es"),
    ]
    page.click("back")
    page.wait_for("document.querySelectorAll('#projects li').length === 1")
    assert "Reel 1" in page.value("document.getElementById('projects').textContent")
    assert page.shot("films-list", 1200, 1000), "nothing is wider than the window"


def test_a_film_that_could_not_be_opened_says_why(page, tmp_path):
    """The page said that it cannot read `slice` of undefined."""
    (tmp_path / "film.mp4").write_bytes(b"no video")
    client = DubClient(page.url)
    project = client.create_project(tmp_path / "film.mp4", language="es", script=SCRIPT, consent="Ana Ruiz agrees")
    wait_for(lambda: client.status(project["id"])["state"] == "failed")
    page.call("Page.navigate", url=f"{page.url}/films#{project['id']}")
    page.wait_for("document.getElementById('message')?.textContent.includes('not a media file')")
    assert page.value("document.getElementById('one').hidden")
