"""The refresh token in a cookie, for the page: out of the reach of every script, and of every other site.

A client asks for it at log-in (`"refreshIn": "cookie"`). The cookie alone opens nothing: each use of it must also carry
the header `X-Refresh-In: cookie`, which another site cannot add without a CORS permission that is never given. That,
SameSite=Strict and Sec-Fetch-Site are three locks against forged requests, each enough by itself.
"""

from flask import Response, after_this_request, request

NAME = "swnube_refresh"
PATH = "/api/auth"
HEADER = "X-Refresh-In"


def asked() -> bool:
    """Whether this request is to use the cookie: it says so, comes from our own page, and brings no bearer."""
    return (
        request.path.startswith(f"{PATH}/")
        and request.headers.get(HEADER, "").lower() == "cookie"
        and "Authorization" not in request.headers
        and request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    )


def put(token: str, seconds: int, stay: bool) -> None:
    """Put a token into the cookie of this request's answer.

    stay: keep it when the browser is closed, for the token's life; otherwise it goes with the browser's session.
    """

    @after_this_request
    def _put(response: Response) -> Response:
        response.set_cookie(
            NAME, token, max_age=seconds if stay else None, path=PATH, secure=request.is_secure, httponly=True,
            samesite="Strict",
        )  # fmt: skip
        return response


def drop() -> None:
    """Clear the cookie with this request's answer."""

    @after_this_request
    def _drop(response: Response) -> Response:
        response.delete_cookie(NAME, path=PATH, secure=request.is_secure, httponly=True, samesite="Strict")
        return response
