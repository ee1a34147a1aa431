"""Whose word about the client is believed: that of the configured balancers, and only what they themselves say."""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from werkzeug.middleware.proxy_fix import ProxyFix

from flaskr.config import Config

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class FromBalancer:
    """Takes the client's address and scheme from X-Forwarded-For and -Proto when a balancer says them.

    Only as many entries from the end are read as there are balancers; what the client itself wrote stands before them.
    With PROXY_NETWORKS only a peer from one of them is a balancer; without, every peer is, and the instances must be
    reachable through the balancers alone.
    """

    def __init__(self, app: "WSGIApplication", config: Config) -> None:
        self._plain = app
        self._believing = ProxyFix(app, x_for=config.trusted_proxies, x_proto=1, x_host=0)
        self._networks = config.proxy_networks

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        app: Any = self._believing if self._is_balancer(environ.get("REMOTE_ADDR", "")) else self._plain
        return app(environ, start_response)  # type: ignore[no-any-return]

    def _is_balancer(self, peer: str) -> bool:
        if not self._networks:
            return True
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._networks)
