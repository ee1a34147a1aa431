"""What open pages cost the web tier: 200 of them, each asking as flaskr/web/static/js/tasks.js does.

    python -m tests.measure.open_pages [--pages 200] [--seconds 60]

Two scenes: every page idle, and every page with a file that waits for a worker. Each begins with all pages asking
slowly already, as they do after half a minute. Prints the CPU time of the whole web tier (all processes of one instance)
as a share of one core, and how long an upload takes beside it.
"""

import argparse
import heapq
import random
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field

import psutil
import requests

from tests.client import Client, tone
from tests.stack import Stack

SCENES = {"idle": (30.0, 180.0), "waiting": (15.0, 120.0)}  # seconds between questions, and between looks at the list


@dataclass(order=True)
class Page:
    """One open page: when it asks next, and when it reads the list next."""

    asks: float
    reads: float = field(compare=False)
    url: str = field(compare=False)
    etag: str = field(compare=False)
    session: requests.Session = field(compare=False)

    def ask(self, origin: str, pause: float, stale: float) -> None:
        """Do what is due."""
        if time.monotonic() >= self.reads:
            self.session.get(f"{origin}/api/tasks?order=1&max=20", timeout=30).raise_for_status()
            self.reads += stale
        headers = {"If-None-Match": self.etag, "Authorization": None}  # the address needs none
        answer = self.session.get(origin + self.url, headers=headers, timeout=30)
        assert answer.status_code == 304, answer.status_code
        self.asks += pause


def cpu(stack: Stack) -> float:
    """CPU seconds of the web instance so far."""
    parent = psutil.Process(stack.web[0].pid)
    return float(sum(sum(process.cpu_times()[:2]) for process in (parent, *parent.children(recursive=True))))


def open_pages(stack: Stack, count: int, scene: str) -> list[Page]:
    """As many pages, of an account each, spread over time."""
    pause, stale = SCENES[scene]
    pages = []
    for number in range(count):
        client = Client(stack.web[0].url, f"{scene}{number}@example.com").signup().login()
        if scene == "waiting":
            client.upload(tone(0.1, rate=8000), "a.wav", "ogg")
        said = client.call("POST", "/api/tasks/watch").json()
        now = time.monotonic()
        pages.append(Page(0, now + stale * random.random(), said["url"], f'"{said["version"]}"', client.session))
    now = time.monotonic()
    for page in pages:
        page.asks = now + pause * random.random()
        page.reads = max(page.reads, now)
    return pages


def run(stack: Stack, pages: list[Page], scene: str, seconds: float) -> tuple[float, int]:
    """Let them ask for so long; return the share of a core that it cost, and how many questions there were."""
    pause, stale = SCENES[scene]
    heapq.heapify(pages)
    count, before, began = 0, cpu(stack), time.monotonic()
    while pages[0].asks < began + seconds:
        time.sleep(max(0.0, pages[0].asks - time.monotonic()))
        page = heapq.heappop(pages)
        page.ask(stack.web[0].url, pause, stale)
        heapq.heappush(pages, page)
        count += 1
    return (cpu(stack) - before) / (time.monotonic() - began), count


def uploads(stack: Stack, seconds: float) -> float:
    """The median time of an upload of 1 MB, one after the other with pauses for so long."""
    client = Client(stack.web[0].url, f"up{time.monotonic_ns()}@example.com").signup().login()
    body = tone(12)
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        number = client.upload(body, "up.wav", "wav")["id"]
        times.append(time.monotonic() - began)
        client.delete(number)
        time.sleep(0.5)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    asked = parser.parse_args()
    with Stack(database="postgres") as stack:
        stack.workers[0].stop()  # so that what waits goes on waiting
        alone = uploads(stack, 10)
        for scene in SCENES:
            pages = open_pages(stack, asked.pages, scene)
            share, count = run(stack, pages, scene, asked.seconds)
            beside: list[float] = []
            thread = threading.Thread(target=lambda seen=beside: seen.append(uploads(stack, 10)))
            thread.start()
            run(stack, pages, scene, 12)
            thread.join()
            sys.stdout.write(
                f"{asked.pages} pages, {scene}: {count / asked.seconds:.1f} questions a second, {100 * share:.2f} % of a core; "
                f"an upload of 1 MB takes {1000 * beside[0]:.0f} ms beside them, {1000 * alone:.0f} ms alone\n"
            )
            sys.stdout.flush()
        stack.workers[0].cont()


if __name__ == "__main__":
    main()
