"""Access control of the server: host names, a token beyond the loopback interface, request size limits."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "pir_token"
MAX_BODY_BYTES = 1_000_000  # of a question
MAX_PICTURE_BYTES = 32_000_000  # of a picture that is asked with
PICTURES = "/api/pictures"
OWN_SOURCES = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self'{inline}; script-src 'self'{inline}; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors {frames}"
)  # a browser that is shown this asks no other machine for anything
INLINE = " 'unsafe-inline'"  # the OpenAPI page starts itself by a script inside it
STATIC_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        token: that has to come along, as `Authorization: Bearer TOKEN`, as the cookie that the page keeps, or once as
            `?token=`; None lets everyone in that can reach the server.
        hosts: names under which the server may be called, without a port, so that no web page elsewhere can make a
            browser ask it under a name of its own (DNS rebinding); empty for any.
        frames: addresses of pages that may show this one inside them.
    """

    token: str | None = None
    hosts: Sequence[str] = field(default=LOOPBACK)
    frames: Sequence[str] = field(default=())

    @classmethod
    def for_address(cls, host: str, token: str | None = None) -> Access:
        """What fits an address to listen on: on the loopback interface no token is needed, elsewhere one is made.

        Args:
            host: to listen on.
            token: of one's own.
        """
        if host in LOOPBACK:
            return cls(token)
        any_name = host in ("0.0.0.0", "::", "")
        return cls(token or secrets.token_urlsafe(16), () if any_name else (*LOOPBACK, host))


class Guard:
    """The middleware that holds [`Access`]: refuses, bounds, and says to browsers what the page may load.

    Args:
        app: what it guards.
        access: who may ask.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = self._with_headers(scope["path"], send)
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        try:
            await self.app(scope, _bounded(scope, receive), send)
        except _TooLargeError:
            await _too_large(scope["path"])(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """Why a request is not answered; None if it is."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.access.hosts and _name(host) not in self.access.hosts:
            sentence = f"This server is not called {host!r}: open it as {self.access.hosts[0]}."
            return JSONResponse({"error": sentence}, 400)
        origin = headers.get("origin")
        if self.access.hosts and origin is not None and urlsplit(origin).netloc != host:
            return JSONResponse({"error": f"Pages of {origin} may not ask this server."}, 403)
        if int(headers.get("content-length", "0") or 0) > _limit(scope["path"]):
            return _too_large(scope["path"])
        return self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        """What is answered to a request without the token, or with it in its address."""
        if self.access.token is None:
            return None
        asked = parse_qsl(scope["query_string"].decode("latin-1"))
        in_address = dict(asked).get("token")
        if in_address is not None and _same(in_address, self.access.token):
            if scope["path"].startswith("/api/"):
                return None
            rest = urlencode([pair for pair in asked if pair[0] != "token"])
            answer = RedirectResponse(f"{scope['path']}?{rest}" if rest else scope["path"], 303)
            answer.set_cookie(COOKIE, self.access.token, httponly=True, samesite="strict")
            return answer
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        given = (headers.get("authorization", "").removeprefix("Bearer "), cookie.value if cookie else "")
        if any(_same(text, self.access.token) for text in given):
            return None
        sentence = "This server wants its token: open the address that it printed when it started."
        if scope["path"].startswith("/api/"):
            return JSONResponse({"error": sentence}, 401, {"www-authenticate": "Bearer"})
        return PlainTextResponse(sentence, 401)

    def _with_headers(self, path: str, send: Send) -> Send:
        """Say with each answer what may be loaded, and that addresses are told to nobody."""
        inline = INLINE if path.startswith("/docs") else ""
        frames = " ".join(["'self'", *self.access.frames])

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = OWN_SOURCES.format(inline=inline, frames=frames)
                for name, value in STATIC_HEADERS.items():
                    headers[name] = value
            await send(message)

        return sending


class _TooLargeError(Exception):
    """A body that went on beyond its limit."""


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Receive a body up to its limit."""
    limit, count = _limit(scope["path"]), 0

    async def receiving() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > limit:
            raise _TooLargeError
        return message

    return receiving


def _limit(path: str) -> int:
    """Bytes of a request's body."""
    return MAX_PICTURE_BYTES if path == PICTURES else MAX_BODY_BYTES


def _too_large(path: str) -> Response:
    """The answer to too large a body."""
    what = "The picture" if path == PICTURES else "The question"
    sentence = f"{what} is larger than {_limit(path) / 1e6:g} MB: make it smaller."
    return JSONResponse({"error": sentence}, 413, {"connection": "close"})


def _name(host: str) -> str:
    """A host without its port and brackets."""
    return (urlsplit(f"//{host}").hostname or "") if host else ""


def _same(given: str, token: str) -> bool:
    """Whether a token is the right one, in a time that says nothing about it."""
    return hmac.compare_digest(given.encode(), token.encode())
