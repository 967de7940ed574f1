"""Starlette's session middleware and starsessions: ASGI, driven through a bridge to the WSGI calls of the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from ..tiny import Lab, act
from . import Contender


class Bridge:
    """An ASGI application as a WSGI one: each call runs on one event loop in a thread of its own."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        headers = [(b"host", environ["HTTP_HOST"].encode())]
        if "HTTP_COOKIE" in environ:
            headers.append((b"cookie", environ["HTTP_COOKIE"].encode("latin-1")))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": environ["PATH_INFO"],
            "raw_path": environ["PATH_INFO"].encode(),
            "query_string": environ["QUERY_STRING"].encode(),
            "root_path": "",
            "headers": headers,
            "server": ("localhost", 443),
        }
        messages: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        asyncio.run_coroutine_threadsafe(self._application(scope, receive, send), self._loop).result()
        start = messages[0]
        start_response(
            f"{start['status']} .",
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]],
        )
        return [message.get("body", b"") for message in messages[1:]]


class StarletteVisit:
    def __init__(self, request: Any) -> None:
        self.session = request.session
        self._request = request

    def renew(self, user: str) -> None:
        self.elevate()

    def elevate(self) -> None:
        # The README of starsessions, "Regenerating session ID". Starlette's own has no id.
        if "session_handler" in self._request.scope:
            from starsessions import regenerate_session_id

            regenerate_session_id(self._request)

    def end(self) -> None:
        self.session.clear()

    #: The README of starsessions, "Session termination". https://starlette.dev/middleware/#sessionmiddleware shows no
    #: logout: "a dictionary interface".
    leave = end


def build(lab: Lab, make_layers: Callable[[Lab], list[Any]]) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def view(request: Request) -> Response:
        # In a thread, because the handler may wait at a gate.
        body = await asyncio.to_thread(act, request.url.path, request.url.query, StarletteVisit(request), lab.gates)
        return Response(body, media_type="application/json")

    return Bridge(Starlette(routes=[Route("/{path:path}", view)], middleware=make_layers(lab)))


def starlette_layers(lab: Lab) -> list[Any]:
    from starlette.middleware import Middleware
    from starlette.middleware.sessions import SessionMiddleware

    return [Middleware(SessionMiddleware, secret_key="s" * 32, max_age=3600, https_only=True)]


def starsessions_layers(store: str) -> Callable[[Lab], list[Any]]:
    def layers(lab: Lab) -> list[Any]:
        from starlette.middleware import Middleware
        from starsessions import CookieStore, SessionAutoloadMiddleware, SessionMiddleware
        from starsessions.stores.redis import RedisStore

        class GatedStore(RedisStore):
            async def write(self, *args: Any, **kwargs: Any) -> str:
                await asyncio.to_thread(lab.gates.enter, "store")
                return await super().write(*args, **kwargs)

        if store == "cookie":
            chosen = CookieStore(secret_key="s" * 32)
        else:
            from redis.asyncio import Redis

            chosen = GatedStore(connection=Redis.from_url(lab.redis_url))
        return [
            Middleware(SessionMiddleware, store=chosen, lifetime=3600, rolling=lab.rolls),
            Middleware(SessionAutoloadMiddleware),
        ]

    return layers


CONTENDERS = [
    Contender(
        "starlette",
        "starlette",
        "SessionMiddleware (re-sends only when modified)",
        lambda lab: build(lab, starlette_layers),
        timed=False,
    ),
    Contender(
        "starsessions-cookie",
        "starsessions",
        "CookieStore, rolling",
        lambda lab: build(lab, starsessions_layers("cookie")),
        timed=False,
    ),
    Contender(
        "starsessions-redis",
        "starsessions",
        "RedisStore, rolling",
        lambda lab: build(lab, starsessions_layers("redis")),
        stored=True,
        redis=True,
        timed=False,
    ),
]
