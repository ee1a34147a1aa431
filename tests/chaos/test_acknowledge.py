"""A worker's broker connection when the acknowledgement of a message fails."""

import importlib
import logging
from pathlib import Path
from typing import Any

import pytest
from kombu import Consumer, Queue

from tests.services import Redis, Tap


def test_a_failed_acknowledgement_does_not_keep_the_next_message_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With one message at a time, a worker may ask for the next one although it could not acknowledge the last."""
    with Redis(tcp=True) as redis, Tap(redis.port) as tap:
        url = f"redis://127.0.0.1:{tap.port}/0"
        monkeypatch.setenv("REDIS_URL", url)
        monkeypatch.setenv("STORAGE_URL", f"file://{tmp_path}")
        monkeypatch.setenv("API_URL", "http://127.0.0.1:1")
        app = importlib.import_module("worker.app").app
        taken: list[Any] = []
        with app.connection_for_write(url) as writer, app.connection_for_read(url) as reader:
            writer.SimpleQueue("acknowledged").put({})
            channel = reader.channel()
            channel.basic_qos(0, 1, False)
            queue = Queue("acknowledged")
            with Consumer(channel, [queue], callbacks=[lambda _, message: taken.append(message)], accept=["json"]):
                reader.drain_events(timeout=5)
                assert not channel.qos.can_consume()
                tap.refuse()
                taken[0].ack_log_error(logging.getLogger("worker"), reader.connection_errors)
                assert channel.qos.can_consume()
                tap.restore()
