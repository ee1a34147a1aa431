"""The web tier. `create_app` is the only wiring: what is made once per process is made and passed on here."""

import sys
from threading import BoundedSemaphore

import click
from flask import Flask

import worker.contract.traces  # noqa: F401 - before anything loads redis: with it goes what redis shall not load
from flaskr import api, commands, web
from flaskr.accounts import Accounts
from flaskr.api.balancer import FromBalancer
from flaskr.config import Config
from flaskr.conversions import Conversions
from flaskr.db import db, migrate
from flaskr.limits import Limits
from flaskr.links import Links
from flaskr.metrics import PoolUse
from worker.contract.logs import set_up_logs
from worker.contract.queue import Queue, make_celery
from worker.contract.settings import SettingsError
from worker.contract.store import open_store
from worker.contract.traces import set_up_traces

_ARCHIVES = 4  # made at once in one process


def create_app(config: Config | None = None) -> Flask:
    """Return the application, ready for requests.

    config: read from the environment when not given. A missing or senseless setting ends the process with a line that
    names it.
    """
    set_up_logs("web")
    set_up_traces("web")
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
    with app.app_context():
        PoolUse(db.engine, config.database_connections)
    queue = Queue(make_celery(config.addresses), config.addresses)
    store = open_store(config.addresses.storage_url)
    app.extensions["keys"] = config.keys
    app.extensions["store"] = store
    app.extensions["queue"] = queue
    limits = Limits(config.addresses.redis_url)
    app.extensions["accounts"] = Accounts(config, limits)
    app.extensions["links"] = Links(config, app.extensions["accounts"])
    # An archive may take hours and keeps its thread as long: it must never be all threads.
    app.extensions["archive_slots"] = BoundedSemaphore(_ARCHIVES)
    app.extensions["conversions"] = Conversions(config, store, queue, limits)
    api.register(app)
    web.register(app)
    commands.register(app)
    if config.trusted_proxies:
        app.wsgi_app = FromBalancer(app.wsgi_app, config)  # type: ignore[method-assign]
    return app
