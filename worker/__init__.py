"""The conversion tier: takes jobs from the queue, converts with ffmpeg, reports to the API.

It has no database, no Flask and no signing secret.
"""

import os
import sys

if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
    # redis-py loads the SDK's metrics wherever they are installed, though nobody here asks it for any. This makes the SDK
    # look absent, before redis is loaded; worker.contract.traces loads it where there is a collector.
    sys.modules.setdefault("opentelemetry.sdk", None)  # type: ignore[arg-type]
