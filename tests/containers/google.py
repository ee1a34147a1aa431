"""What an instance asks of Google Cloud, served here: metadata, tokens, Secret Manager, a bucket with the release."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

PROJECT = "journey"


class Google:
    """A metadata server and two services behind it, at `address`, each role with its own attributes and permissions.

    A caller's role is the first part of its path: the metadata host of a machine is `<address>:<port>/<role>`; so one
    server plays for all machines. attributes: role -> name -> value. readers: secret -> roles that may read it.
    """

    def __init__(self, address: str) -> None:
        self.attributes: dict[str, dict[str, str]] = {}
        self.secrets: dict[str, str] = {}
        self.readers: dict[str, set[str]] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        google = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = google.answer(self.path, dict(self.headers))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self.host = f"{address}:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
        path = urlsplit(target).path.removeprefix("/")
        role, _, rest = path.partition("/")
        self.asked.append(path)
        if rest.startswith("computeMetadata/v1/"):
            if headers.get("Metadata-Flavor") != "Google":
                return 403, b""
            return self._metadata(role, rest.removeprefix("computeMetadata/v1/"))
        if headers.get("Authorization") != f"Bearer token-of-{role}":
            return 401, b""
        if rest.startswith(f"v1/projects/{PROJECT}/secrets/") and rest.endswith("/versions/latest:access"):
            name = rest.split("/")[4]
            if role not in self.readers.get(name, set()):
                return 403, b""
            return 200, json.dumps(
                {"payload": {"data": base64.b64encode(self.secrets[name].encode()).decode()}}
            ).encode()
        if rest.startswith("storage/v1/b/"):
            _, _, _, bucket, _, key = rest.split("/", 5)
            found = self.objects.get(f"gs://{bucket}/{unquote(key)}")
            return (404, b"") if found is None else (200, found)
        return 404, b""

    def _metadata(self, role: str, name: str) -> tuple[int, bytes]:
        if name == "project/project-id":
            return 200, PROJECT.encode()
        if name == "instance/service-accounts/default/token":
            return 200, json.dumps({"access_token": f"token-of-{role}", "expires_in": 3600}).encode()
        value = self.attributes.get(role, {}).get(name.removeprefix("instance/attributes/"))
        return (404, b"") if value is None else (200, value.encode())
