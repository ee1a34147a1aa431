"""How hard the fuzz tests try: the same few examples at every `make test`, as many new ones as asked for by `make fuzz-audio`."""

import os

from hypothesis import HealthCheck, settings

_asked = os.environ.get("FUZZ_EXAMPLES")
FUZZ = settings(
    max_examples=int(_asked or 60),
    derandomize=_asked is None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
