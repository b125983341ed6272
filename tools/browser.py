"""A headless Chromium, driven over its debugging protocol: load a page, ask it, press keys."""

import base64
import json
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from websocket import create_connection

from .need import program

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
INSTALL = "install Chromium (on Debian and Ubuntu: apt install chromium)"


@contextmanager
def browser():
    """A :class:`Page` of a browser with an empty profile; Missing if there is no Chromium."""
    path = program(*NAMES, install=INSTALL)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([path, *options, "about:blank"], **quiet)
        try:
            port = Path(profile, "DevToolsActivePort")
            deadline = time.monotonic() + 120
            while not (port.exists() and "\n" in port.read_text()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{path} did not start")
                time.sleep(0.1)
            number = port.read_text().split()[0]
            request = Request(f"http://127.0.0.1:{number}/json/new?about:blank", method="PUT")
            address = json.load(urlopen(request))["webSocketDebuggerUrl"]
            page = Page(create_connection(address, timeout=300, suppress_origin=True))
            yield page
            page.socket.close()
        finally:
            process.terminate()
            process.wait(30)


class Page:
    """One tab. ``events``: what it told since the last :meth:`load`."""

    def __init__(self, socket):
        self.socket, self.number, self.events = socket, 0, []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        """The answer of the protocol; RuntimeError for a refusal."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            if "method" in message:
                self.events.append(message)

    def load(self, url: str) -> None:
        """Open a page and wait until it, its pictures and its mathematics are there."""
        self.events = []
        self.call("Page.navigate", url=url)
        self.wait(f"location.href == {json.dumps(url)} && document.readyState == 'complete'")
        self.ask("window.MathJax?.startup?.promise.then(() => 0)")

    def ask(self, expression: str):
        """The value of a JavaScript expression, awaited; RuntimeError if it throws."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 300) -> None:
        """Until the expression is true; TimeoutError if it stays false."""
        deadline = time.monotonic() + seconds
        while not self.ask(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true after {seconds} s: {expression}")
            time.sleep(0.05)

    def look(self, width: int, height: int = 900, scheme: str = "light") -> None:
        """The window's size in CSS pixels, and the colours that the reader prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def press(self, key: str) -> None:
        """A key, down and up; without its text, Enter would open nothing."""
        code, typed = {"Tab": (9, {}), "Enter": (13, {"text": "\r"})}[key]
        for kind, text in (("keyDown", typed), ("keyUp", {})):
            about = {"type": kind, "key": key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", **about, **text)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def complaints(self) -> list[str]:
        """Errors of scripts, of the console, and of loading."""
        said = []
        for event in self.events:
            kind, params = event["method"], event["params"]
            if kind == "Runtime.exceptionThrown":
                said.append(str(params["exceptionDetails"]))
            elif kind == "Log.entryAdded" and params["entry"]["level"] == "error":
                said.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
                said.append(str(params["args"]))
            elif kind == "Network.loadingFailed":
                said.append(params["errorText"])
        return said

    def requests(self) -> list[str]:
        sent = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]
