"""Headless Chromium, told what to do over a pair of pipes by the DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
]  # fmt: skip
COMMANDS, ANSWERS = 3, 4  # the descriptors that Chromium reads and writes


def find_chromium() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page of one browser. `complaints` collects what it writes to its console, and what it could not load."""

    def __init__(self, profile: Path):
        from_us, to_browser = os.pipe()
        from_browser, to_us = os.pipe()
        self.complaints: list[str] = []
        self._number = 0
        self._commands, self._answers = os.fdopen(to_browser, "wb", 0), os.fdopen(from_browser, "rb")
        command = [find_chromium(), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        # Chromium wants exactly these two descriptors, and other shells know none above 9.
        shell = ["bash", "-c", f'exec "$@" {COMMANDS}<&{from_us} {ANSWERS}>&{to_us}', "bash", *command]
        self._process = subprocess.Popen(
            shell, pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(from_us)
        os.close(to_us)
        self._session = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait()
        self._commands.close()
        self._answers.close()

    def open(self, page: Path, width: int, scheme: str) -> None:
        """`page` at so many CSS pixels; scheme: "light" or "dark"."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        address = page.absolute().as_uri()
        self._call("Page.navigate", url=address)
        while self.evaluate("document.readyState + location.href") != f"complete{address}":
            time.sleep(0.02)

    def evaluate(self, expression: str):
        """The value of a JavaScript expression."""
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Of the whole page, also of what lies below the window."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        picture = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1})
        path.write_bytes(base64.b64decode(picture["data"]))

    def _call(self, method: str, **parameters) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        number = self._number
        while (answer := self._message()).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _message(self) -> dict:
        text = b""
        while not text.endswith(b"\0"):
            if not (piece := self._answers.read(1)):
                raise RuntimeError("the browser has ended")
            text += piece
        message = json.loads(text[:-1])
        if message.get("method") in ("Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed"):
            self.complaints.append(text[:-1].decode())
        return message
