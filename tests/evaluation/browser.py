"""A real Chromium, driven over its debugging pipe; tests are skipped by name where there is none."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_SECONDS = 90
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-pipe",
)  # fmt: skip


class Page:
    """One tab: what it asked for, what it complained about, and what a script in it returns."""

    def __init__(self, browser: Browser) -> None:
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self._browser = browser
        self._session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **parameters)

    def size(self, width: int, *, mobile: bool = False, media: str = "screen") -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=mobile
        )
        self.send("Emulation.setEmulatedMedia", media=media)

    def open(self, path: Path) -> None:
        self._browser.events.clear()
        self.send("Page.navigate", url=path.as_uri())
        self._browser.wait_for("Page.loadEventFired")

    def script(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """Addresses that were asked for, those inside the page left out."""
        found = self._browser.events_of("Network.requestWillBeSent")
        return [url for event in found if not (url := event["request"]["url"]).startswith("data:")]

    def complaints(self) -> list[Any]:
        names = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event for name in names for event in self._browser.events_of(name)]


class Browser:
    """The process; messages end with a NUL byte."""

    def __init__(self, program: str, folder: Path) -> None:
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        # beyond what the child's 3 and 4 could collide with
        commands, answers = (_lift(handle) for handle in (commands, answers))

        def place() -> None:
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [program, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(3, 4), preexec_fn=place,
                env={**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
            )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._log, self._number, self._buffer = folder / "log", 0, b""
        self.events: list[dict[str, Any]] = []
        self._answers: dict[int, dict[str, Any]] = {}

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        self._until(lambda: self._number in self._answers)
        answer = self._answers.pop(self._number)
        assert "error" not in answer, (method, answer)
        return dict(answer["result"])

    def events_of(self, name: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == name]

    def wait_for(self, name: str) -> None:
        self._until(lambda: bool(self.events_of(name)))

    def _until(self, done: Any) -> None:
        deadline = time.monotonic() + _SECONDS
        while not done():
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            content = os.read(self._read, 1 << 16) if ready else b""
            if not content:
                pytest.fail(f"the browser stopped answering: {self._log.read_text(errors='replace')[-2000:]}")
            self._buffer += content
            *whole, self._buffer = self._buffer.split(b"\0")
            for text in whole:
                message = json.loads(text)
                if "id" in message:
                    self._answers[message["id"]] = message
                else:
                    self.events.append(message)

    def close(self) -> None:
        for handle in (self._write, self._read):
            os.close(handle)  # end of the pipe ends the browser
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        self.process.kill()
        self.process.wait()


def _lift(handle: int) -> int:
    lifted = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(handle)
    return int(lifted)


@contextlib.contextmanager
def run_browser(folder: Path) -> Iterator[Page]:
    """Run one for a test; skip by name where no Chromium is installed."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("real browser: no Chromium; apt-get install chromium")
    browser = Browser(program, folder)
    try:
        yield Page(browser)
    finally:
        browser.close()
