"""A page in headless Chromium, driven over the two pipes of its DevTools protocol: no package is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-dev-shm-usage", "--disable-extensions", "--host-resolver-rules=MAP * ~NOTFOUND")
LIGHT, DARK = "light", "dark"
PATIENCE = 60.0
"""Seconds without a word, after which the browser is taken for dead."""

READING = """(() => {
  const painter = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (...layers) => {
    for (const colour of layers) { painter.fillStyle = colour; painter.fillRect(0, 0, 1, 1); }
    return [...painter.getImageData(0, 0, 1, 1).data].slice(0, 3).map(x => x / 255);
  };
  const light = colour => colour.map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
  const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, words = texts.currentNode.data.trim();
    if (!words || !element.checkVisibility() || element.closest("script, style")) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const own = getComputedStyle(element), ink = element.closest("svg") ? own.fill : own.color;
    const [one, other] = [light(rgb("#fff", ...behind)), light(rgb("#fff", ...behind, ink))];
    const range = document.createRange();
    range.selectNodeContents(texts.currentNode);
    found.push({words, contrast: (Math.max(one, other) + .05) / (Math.min(one, other) + .05),
      height: range.getBoundingClientRect().height});
  }
  return found;
})()"""
"""Each text that is shown: its words, its contrast as WCAG 2 defines it, and its height in pixels."""


class Page:
    """One tab.

    Attributes:
        requests: every address that the page has asked for since it was opened, its own first.
        said: what stands in the console: errors, warnings and all else, and exceptions that nobody caught.
    """

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of = to, of
        self._unread, self._number, self._session, self._loaded = b"", 0, "", False
        self.requests: list[str] = []
        self.said: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path) -> None:
        """Loads a file and waits until it is shown."""
        self.requests.clear()
        self.said.clear()
        self._loaded = False
        self.call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self.read("0")

    def read(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON has it."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def texts(self) -> list[dict[str, Any]]:
        """What `READING` says of each text that is shown."""
        return self.read(READING)

    def look(self, width: int, scheme: str = LIGHT, medium: str = "") -> None:
        """How wide the window is in pixels, which colours are preferred, and `print` for paper.

        Not `screen`, with which a page would be printed as it is there.
        """
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=medium, features=features)

    def press(self, key: str) -> None:
        """A key of the keyboard, as a person would."""
        codes = {"Enter": (13, "\r"), "Tab": (9, ""), " ": (32, " ")}
        code, text = codes[key]
        pressed = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **pressed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def picture(self, path: Path) -> None:
        """A screenshot of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def print(self, path: Path) -> None:
        """A PDF of the page on A4."""
        printed = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(printed["data"]))

    def call(self, method: str, **parameters: Any) -> Any:
        """The answer to a command of the protocol; what happens meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer.get("method"), answer.get("params", {}))
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._of], [], [], PATIENCE)[0], "the browser does not answer"
            more = os.read(self._of, 1 << 16)
            assert more, "the browser has ended"
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _note(self, event: str | None, of: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(of["request"]["url"])
        elif event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Runtime.consoleAPICalled":
            self.said.append(f"{of['type']}: {of['args']}")
        elif event == "Runtime.exceptionThrown":
            self.said.append(str(of["exceptionDetails"]))
        elif event == "Log.entryAdded":
            self.said.append(f"{of['entry']['level']}: {of['entry']['text']}")


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser with an empty profile and one tab, which ends with the block."""
    assert CHROMIUM is not None
    (of_browser, to), (of, to_browser) = os.pipe(), os.pipe()
    # The browser reads commands from 3 and answers on 4; bash, as sh need not know numbers above 9.
    command = f'exec "$0" "$@" 3<&{of_browser} 4>&{to_browser}'
    given = (CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank")
    started = subprocess.Popen(
        ["bash", "-c", command, *given],
        pass_fds=(of_browser, to_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(of_browser)
    os.close(to_browser)
    try:
        yield Page(to, of)
    finally:
        os.close(to)
        os.close(of)
        started.terminate()
        started.wait()
