"""A real browser for the status page: Chromium without a screen, driven by WebDriver.

Debian's packages chromium and chromium-driver. Source: https://www.w3.org/TR/webdriver2/, and for what a page
prints and for media features the DevTools protocol through the driver.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
)
ENTER, TAB = "\ue007", "\ue004"
WITHIN_S = 60.0
STARTS = 10
"""It takes a free port of IPv4, and gives up where that is taken in IPv6."""

missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


class Browser:
    def __init__(self, profile: Path) -> None:
        for _ in range(STARTS):
            self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
            assert self._driver.stdout is not None
            line = next((line for line in self._driver.stdout if "started successfully on port" in line), "")
            if line:
                break
            self._end()
        else:
            raise AssertionError("chromedriver does not start")
        self._url = f"http://127.0.0.1:{line.rstrip().rstrip('.').rpartition(' ')[2]}/session"
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            session = self._ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._end()
            raise
        self._url += f"/{session['sessionId']}"

    def close(self) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self._end()

    def _end(self) -> None:
        self._driver.terminate()
        self._driver.wait(30)
        assert self._driver.stdout is not None
        self._driver.stdout.close()

    def _ask(self, verb: str, path: str, body: Any = None) -> Any:
        data = None if verb != "POST" else json.dumps(body or {}).encode()
        request = Request(self._url + path, data, {"content-type": "application/json"}, method=verb)
        try:
            with urlopen(request, timeout=180) as response:
                return json.load(response)["value"]
        except HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None

    def devtools(self, command: str, **params: Any) -> Any:
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": "about:blank"})
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def wait(self, script: str, *args: Any, truth: Callable[[Any], bool] = bool) -> Any:
        """The value of a script, once it is one to be content with."""
        give_up_s = time.monotonic() + WITHIN_S
        while True:
            value = self.run(f"return {script}", *args)
            if truth(value):
                return value
            assert time.monotonic() < give_up_s, f"{script}: {value!r}; console: {self.console()}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def type(self, selector: str, text: str) -> None:
        """Into a field, by the keys of a keyboard."""
        element = next(
            iter(self._ask("POST", "/element", {"using": "css selector", "value": selector}).values())
        )
        self._ask("POST", f"/element/{element}/value", {"text": text})

    def press(self, key: str) -> None:
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def accept(self) -> str:
        """Say yes to the dialog that the page opens, once it is there. Its text."""
        return self._answer_dialog("accept")

    def dismiss(self) -> str:
        """Say no to it."""
        return self._answer_dialog("dismiss")

    def _answer_dialog(self, answer: str) -> str:
        give_up_s = time.monotonic() + WITHIN_S
        while True:
            try:
                text = str(self._ask("GET", "/alert/text"))
                break
            except AssertionError as error:
                if "no such alert" not in str(error) or time.monotonic() > give_up_s:
                    raise
            time.sleep(0.05)
        self._ask("POST", f"/alert/{answer}")
        return text

    def console(self) -> list[str]:
        """What the page complained of since the last call: errors, refused resources, policy violations."""
        entries = self._ask("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def prefer(self, scheme: str = "light", motion: str = "no-preference") -> None:
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        self.devtools(
            "Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in features.items()]
        )

    def resize(self, width: int, height: int = 900) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
