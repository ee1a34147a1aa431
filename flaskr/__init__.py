"""The web tier. `create_app` is the only wiring: what is made once per process is made and passed on here."""

import sys

import click
from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from flaskr import api, commands, web
from flaskr.accounts import Accounts
from flaskr.config import Config
from flaskr.conversions import Conversions
from flaskr.db import db, migrate
from flaskr.limits import Limits
from worker.contract.logs import set_up_logs
from worker.contract.queue import Queue, make_celery
from worker.contract.settings import SettingsError
from worker.contract.store import open_store


def create_app(config: Config | None = None) -> Flask:
    """Return the application, ready for requests.

    config: read from the environment when not given. A missing or senseless setting ends the process with a line that
    names it.
    """
    set_up_logs("web")
    if config is None:
        try:
            config = Config.from_environment()
        except SettingsError as error:
            click.echo(f"SWNube cannot start: {error}", err=True)
            sys.exit(2)
    app = Flask(__name__, static_folder=None)
    app.config.from_mapping(config.flask())
    app.json.sort_keys = False  # type: ignore[attr-defined]
    db.init_app(app)
    migrate.init_app(app)
    queue = Queue(make_celery(config.addresses), config.addresses)
    store = open_store(config.addresses.storage_url)
    app.extensions["keys"] = config.keys
    app.extensions["store"] = store
    app.extensions["queue"] = queue
    limits = Limits(config.addresses.redis_url)
    app.extensions["accounts"] = Accounts(config, limits)
    app.extensions["conversions"] = Conversions(config, store, queue, limits)
    api.register(app)
    web.register(app)
    commands.register(app)
    if config.trusted_proxies:
        hops = config.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=1, x_host=0)  # type: ignore[method-assign]
    return app
