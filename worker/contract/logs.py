"""One JSON line per event, the same in both tiers."""

import logging
import os
import sys
from typing import Any

import structlog


def set_up_logs(tier: str) -> None:
    """Send this process's logs to standard error, a JSON object a line: event, level, time (UTC), tier and the rest.

    LOG_LEVEL sets how much (default INFO); LOG_FORMAT=text writes lines for people instead.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _named(tier),
    ]
    renderer = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if os.environ.get("LOG_FORMAT") == "text"
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(os.environ.get("LOG_LEVEL", "INFO").upper())
    for chatty in ("urllib3", "google", "kombu", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Below that, Celery shows whole messages: they hold the bearer of a job.
    logging.getLogger("celery").setLevel(max(root.level, logging.INFO))


def _named(tier: str) -> Any:
    def add(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["tier"] = tier
        return event

    return add
