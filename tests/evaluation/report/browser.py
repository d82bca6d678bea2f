"""A headless Chromium, spoken to by its own protocol: enough to open a page, run in it and look at it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 90.0  # seconds for the start


class Page:
    """One page. `problems` gathers what its console and its security policy complain of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self.socket, self.number = socket, 0
        self.problems: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; what is told meanwhile is kept."""
        self.number += 1
        me = self.number
        await self.socket.send_json({"id": me, "method": method, "params": params})
        async for message in self.socket:
            data = json.loads(message.data)
            self._hear(data)
            if data.get("id") == me:
                assert "error" not in data, data
                return data["result"]
        raise RuntimeError("the browser hung up")

    def _hear(self, data: dict[str, Any]) -> None:
        told = data.get("params", {})
        if data.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(told["exceptionDetails"]))
        elif data.get("method") == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.problems.append(str(told["args"]))
        elif data.get("method") == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(told["entry"]["text"])

    async def run(self, code: str) -> Any:
        """What JavaScript gives; promises are waited for."""
        found = await self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def until(self, code: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not await self.run(code):
            assert time.monotonic() < end, f"never true in the page: {code}; {self.problems}"
            await asyncio.sleep(0.1)

    async def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


def voted(page: Path) -> tuple[list[str], dict[str, Any]]:
    """Votes on every pair of an evaluation's report and exports: what the page complained of, and the export."""

    async def visit(opened: Page, downloads: Path) -> tuple[list[str], dict[str, Any]]:
        await opened.open(page.as_uri())
        while not await opened.run("document.querySelector('.vote-task').hidden"):
            await opened.run(
                "document.querySelectorAll('.vote-question button:first-of-type').forEach(b => b.click());"
                "document.querySelector('[data-do=next]').click()"
            )
        await opened.run("document.querySelector('[data-do=export]').click()")
        for _ in range(100):
            if files := [file for file in downloads.glob("*.json") if file.stat().st_size]:
                return opened.problems, json.loads(files[0].read_text(encoding="utf-8"))
            await asyncio.sleep(0.1)
        raise AssertionError("nothing was exported")

    return browse(visit)


def browse(visit: Callable[[Page, Path], Coroutine[Any, Any, Any]], width: int = 1100, height: int = 900) -> Any:
    """Run `visit(page, downloads)` in a fresh browser that reaches this machine and no network."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert program, "the report is tested in a browser: install chromium"
    # Helpers of the browser that outlive it may still write into its profile.
    folder = partial(tempfile.TemporaryDirectory, ignore_cleanup_errors=True)
    with folder() as profile, folder() as downloads:
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={profile}"]
        command += [
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--window-size={width},{height}",
            "about:blank",
        ]
        chrome = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(profile) / "DevToolsActivePort", chrome)
            return asyncio.run(asyncio.wait_for(_visited(port, Path(downloads), visit), 180))
        finally:
            chrome.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                chrome.wait(10)
            chrome.kill()
            chrome.wait()


def _port(file: Path, chrome: subprocess.Popen) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and chrome.poll() is None:
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int(file.read_text().splitlines()[0])
        time.sleep(0.1)
    raise RuntimeError("chromium did not start")


async def _visited(port: int, downloads: Path, visit: Callable[[Page, Path], Coroutine[Any, Any, Any]]) -> Any:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            targets = await answer.json()
        url = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        async with session.ws_connect(url, max_msg_size=0) as socket:
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log"):
                await page.call(f"{domain}.enable")
            await page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
            return await visit(page, downloads)
