"""flask sweep; flask db comes with Flask-Migrate."""

import signal
import threading

import click
import structlog
from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError

from flaskr.db import db

log = structlog.get_logger()


def register(app: Flask) -> None:
    """Add the commands to ``flask``."""
    app.cli.add_command(sweep)


@click.command()
@click.option("--every", type=click.FloatRange(min=0.1), default=None, help="Sweep again after so many seconds.")
def sweep(every: float | None) -> None:
    """Find what was lost and put it right, once or until stopped. Any number may run at once."""
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    away = False
    while True:
        try:
            if away:
                # While the database was away no worker could renew its lease: give each the time to.
                stop.wait(every or 0)
                current_app.extensions["conversions"].prolong_leases()
                away = False
            current_app.extensions["conversions"].sweep()
            current_app.extensions["accounts"].sweep()
        except SQLAlchemyError as error:
            away = True
            log.warning("sweep.failed", reason=type(error).__name__)
            if every is None:
                raise SystemExit(1) from error
        finally:
            try:
                db.session.remove()
            except SQLAlchemyError:
                log.warning("sweep.connection_lost")
        if every is None or stop.wait(every):
            return
