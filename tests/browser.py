"""A headless Chromium, driven by the W3C WebDriver protocol: JSON over HTTP to chromedriver, no library needed."""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CHROMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Left": "\ue012",
    "Up": "\ue013",
    "Right": "\ue014",
    "Down": "\ue015",
    "Home": "\ue011",
    "End": "\ue010",
}


def found() -> tuple[str, str] | None:
    """The paths of a browser and of its driver, or None where one of them is missing."""
    chrome = next(filter(None, map(shutil.which, CHROMES)), None)
    driver = shutil.which("chromedriver")
    return (chrome, driver) if chrome and driver else None


class Browser:
    """One window. `run` is the workhorse: JavaScript in, its value out."""

    def __init__(self, driver: str, chrome: str):
        self.address = driver
        options = {
            "binary": chrome,
            "args": ["--headless=new", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"],
        }
        if os.geteuid() == 0:
            options["args"].append("--no-sandbox")  # Chromium's own sandbox refuses root, as which containers run
        logging = {"browser": "ALL"}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logging}}
        self.address += "/session/" + self.ask("/session", {"capabilities": wanted})["sessionId"]

    def ask(self, path: str, body: dict | None = None, method: str = "POST"):
        """The driver's answer; its refusals are assertion errors that say why."""
        raw = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.address + path, raw, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"].splitlines()[0]) from None

    def open(self, address: str) -> None:
        """Waits until the page has loaded and, if it has something to show, has drawn it."""
        self.ask("/url", {"url": address})
        self.wait("document.readyState === 'complete' && (document.querySelector('#main').hidden || "
                  "document.documentElement.dataset.ready === 'yes')")  # fmt: skip

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Asks again and again, from here: a script that waits in the page would be lost when the page is left."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"not within {seconds} s: {condition}"
            time.sleep(0.02)

    def run(self, script: str):
        return self.ask("/execute/sync", {"script": f"return {script}", "args": []})

    def press(self, *keys: str) -> None:
        """Names of KEYS, or text to type, to whatever has the focus."""
        strokes = [{"type": kind, "value": c} for key in keys for c in KEYS.get(key, key) for kind in ("keyDown", "keyUp")]
        self.ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def click(self, selector: str) -> None:
        """With the mouse, on the middle of the first element that the selector finds."""
        place = f"""(() => {{
          const element = document.querySelector({json.dumps(selector)});
          element.scrollIntoView({{ block: "center", behavior: "instant" }});
          const box = element.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        x, y = map(round, self.run(place))
        moves = [
            {"type": "pointerMove", "x": x, "y": y},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self.ask("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def devtools(self, command: str, **parameters):
        return self.ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screen(self, width: int, height: int = 900, dark: bool = False, scale: float = 1) -> None:
        """A screen of so many CSS pixels, phones included, and the colours its owner prefers."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, **options) -> None:
        """A PNG of the whole page."""
        data = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, **options)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """What the console has said since the last call: script errors, refused loads."""
        return [line["message"] for line in self.ask("/se/log", {"type": "browser"})]


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
    """A browser until the end of the block."""
    chrome, driver = found()
    service = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        port = next(match[1] for line in service.stdout if (match := re.search(r"started successfully on port (\d+)", line)))
        browser = Browser(f"http://127.0.0.1:{port}", chrome)
        try:
            yield browser
        finally:
            browser.ask("", method="DELETE")
    finally:
        service.terminate()
        service.wait()
        service.stdout.close()
