"""The page in a real Chromium, over the whole service as `make run` starts it.

`make test-browser` runs these tests. The quick test command has no browser, so files here are collected only when the
command line names this folder; then nothing is skipped: a missing browser or driver fails.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.services import free_port, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
PASSWORD = "Corneta-7-azul"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these files to the command that names them."""
    named = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True


@dataclass(frozen=True)
class Service:
    """A running service. url: its origin."""

    url: str

    def account(self) -> str:
        """Make an account and return its e-mail."""
        name = uuid.uuid4().hex[:12]
        email = f"{name}@example.com"
        body = {"user": name, "email": email, "password1": PASSWORD, "password2": PASSWORD}
        requests.post(f"{self.url}/api/auth/signup", json=body, timeout=10).raise_for_status()
        return email

    def token(self, email: str) -> dict[str, str]:
        """Return the headers of a session of its own."""
        body = {"email": email, "password": PASSWORD}
        answer = requests.post(f"{self.url}/api/auth/login", json=body, timeout=10)
        answer.raise_for_status()
        return {"Authorization": f"Bearer {answer.json()['token']}"}

    def tasks(self, email: str) -> list[dict[str, Any]]:
        """Return an account's tasks, oldest first."""
        answer = requests.get(f"{self.url}/api/tasks", headers=self.token(email), timeout=10)
        answer.raise_for_status()
        return list(answer.json())


@contextlib.contextmanager
def running_service(folder: Path) -> Iterator[Service]:
    """The service in a folder of its own, as `make run` starts it."""
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "INSTANCE_DIR": str(folder)}
    log = folder / "run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local"], cwd=PROJECT, env=environment, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"The service ended: {log.read_text()[-3000:]}")
        try:
            return requests.get(f"{url}/readyz", timeout=5).ok
        except requests.RequestException:  # not there yet, or slow on a busy machine
            return False

    try:
        wait_for(ready, "the service", 150)
        yield Service(url)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def chromium_path() -> str:
    """The system's Chromium."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "No chromium on this machine: install it, or name one in CHROMIUM"
    return path


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests here."""
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: "Browser", service: Service, request: pytest.FixtureRequest) -> "Iterator[Callable[..., Page]]":
    """Open the page in a browser of its own: `open_page(origin=…, locale=…, color_scheme=…, viewport=…)`.

    At the test's end no script error, refused policy or other complaint may stand in any console; only answers that
    are no success are logged there by the browser itself. A picture of each page is kept in build/browser/.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def start(origin: str = service.url, **options: Any) -> "Page":
        context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1100, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: (
            complaints.append(message.text)
            if message.type in ("error", "warning") and "Failed to load resource" not in message.text else None
        ))  # fmt: skip
        page.goto(origin)
        return page

    yield start
    pictures = PROJECT / "build" / "browser"
    pictures.mkdir(parents=True, exist_ok=True)
    for number, context in enumerate(contexts):
        for page in context.pages:
            page.screenshot(path=pictures / f"{request.node.name}-{number}.png", full_page=True)
        context.close()
    assert complaints == []


@pytest.fixture
def sign_in(service: Service, open_page: "Callable[..., Page]") -> "Callable[..., tuple[Page, str]]":
    """Open the page and sign a new account in by its form; return the page and the account's e-mail."""

    def start(stay: bool = False, **options: Any) -> "tuple[Page, str]":
        email = service.account()
        page = open_page(**options)
        page.locator("[name=email]").fill(email)
        page.locator("[name=password]").fill(PASSWORD)
        if stay:
            page.locator("[name=stay]").check()
        page.locator("[name=password]").press("Enter")
        page.locator("#settings select").first.wait_for()
        return page, email

    return start
