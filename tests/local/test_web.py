"""How gunicorn serves: what deploy/gunicorn.conf.py promises to a balancer."""

import socket
import textwrap
from pathlib import Path

import requests

from tests.services import Service, free_port, wait_for
from tests.stack import PROJECT, PYTHON


class Gunicorn(Service):
    """gunicorn as it is deployed, before an application that is loaded when `go` is there, and says so in `loading`."""

    name = "gunicorn"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.port = free_port()
        self.directory = PROJECT
        self.loading, self.go = folder / "loading", folder / "go"
        (folder / "slow_application.py").write_text(
            textwrap.dedent(f"""\
            import pathlib, time
            pathlib.Path({str(self.loading)!r}).touch()
            while not pathlib.Path({str(self.go)!r}).exists():
                time.sleep(0.02)
            def application(environ, start_response):
                start_response("200 OK", [("Content-Length", "2")])
                return [b"ok"]
            """)
        )
        self.environment = {"PORT": str(self.port), "PYTHONPATH": str(folder), "WEB_WORKERS": "2"}

    def _command(self) -> list[str]:
        return [*PYTHON, "gunicorn", "-c", "deploy/gunicorn.conf.py", "slow_application:application"]

    def _answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}", timeout=5).ok
        except requests.RequestException:
            return False

    def refuses(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0


def test_the_port_opens_when_the_application_is_loaded(tmp_path: Path) -> None:
    """While it loads, connections are refused, so that a balancer asks another instance; then the first one is answered."""
    server = Gunicorn(tmp_path)
    try:
        server.launch()
        wait_for(server.loading.exists, "the application begins to load")
        assert server.refuses()
        server.go.touch()
        wait_for(lambda: not server.refuses(), "the port is open")
        assert requests.get(f"http://127.0.0.1:{server.port}", timeout=30).text == "ok"
    finally:
        server.close()
