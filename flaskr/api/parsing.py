"""How bodies and parameters are read, before a schema looks at them."""

import json
import math
from typing import Any

import flask_smorest
from marshmallow import missing
from webargs.flaskparser import FlaskParser, is_json_request


class _Parser(FlaskParser):
    DEFAULT_VALIDATION_STATUS = 400

    def _raw_load_json(self, req: Any) -> Any:
        """Read a body of JSON. What Python's reader chokes on, or takes beyond the standard, is no JSON either.

        That is: lists in lists without end, numbers of thousands of digits, numbers that are none.
        """
        body = req.get_data(cache=True) if is_json_request(req) else b""
        if not body:
            return missing
        try:
            return json.loads(body, parse_constant=_number, parse_float=_number)
        except (ValueError, RecursionError) as error:
            unread: Any = error
            return self._handle_invalid_json_error(unread, req)


class Blueprint(flask_smorest.Blueprint):
    """A group of routes whose arguments are read in this way."""

    ARGUMENTS_PARSER = _Parser()


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("This is no number of JSON's.")
    return value
