"""Where the time of a request goes: what the package does for one, step by step, each timed by itself.

The steps are run warm, in a loop, so their sum is less than what a server sees: between two requests it does a great
deal else, and comes back to cold caches.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

from .contenders import contenders
from .contenders.rollsession import CLOCKS
from .cost import SIZE, Bench


def functions() -> dict[str, Callable[[], Any]]:
    """Step -> a call of it, with the cookies of somebody who logged in a while ago."""
    from wsgi_rollsession import middleware, policy, seal, session, token
    from wsgi_rollsession.exchange import Exchange
    from wsgi_rollsession.presented import Presented

    bench = Bench(contenders()["rollsession-sqlite"], "", (SIZE,), 1)
    application = bench.applications["still"]
    context, clock = application.sessions, CLOCKS[id(application)]
    header, now = bench.environs["still", "read", SIZE]["HTTP_COOKIE"], int(clock() * 1000)
    sessions, leases = context.cookies.parse(header)
    ((name, value),) = sessions
    lease_value = leases[name]
    exchange = Exchange(context, header, now)
    presented = Presented(context, name, value, lease_value, now)
    record, text = presented.record, presented.record.data.decode()
    data = session._decode(text)[0]
    plaintext = token.pack(record)
    lease, lease_name = token.Lease(now, presented.idle, record.version), context.cookies.lease_name(name)
    cookie = context.cookies.set(lease_name, lease_value, 3600)
    given = [("Content-Type", "application/json"), ("Content-Length", "17")]
    return {
        "objects of the request": lambda: Exchange(context, header, int(clock() * 1000)),
        "find a fresh stamp": exchange._looks_due,
        "take the header apart": lambda: context.cookies.parse(header),
        "recall what was opened": lambda: Presented(context, name, value, lease_value, now),
        "or open it anew: the session": lambda: context._open(name, value),
        "or open it anew: the lease": lambda: seal.open_lease(context.ring, lease_name, record.id, lease_value),
        "ask the fences": lambda: policy.refused(record, context.store.lookup(presented.keys)),
        "JSON to data": lambda: session._decode(text),
        "data to JSON": lambda: session._encode(data).encode(),
        "seal a lease": lambda: seal.seal_lease(context.ring, lease_name, record.id, lease),
        "seal a session": lambda: seal.seal_session(context.ring, name, now, plaintext),
        "add Vary and a cookie": lambda: middleware._merged(given, [cookie], False, True),
        **of_gunicorn(given, [*given, ("Vary", "Cookie")], [*given, ("Vary", "Cookie"), ("Set-Cookie", cookie)]),
    }


def of_gunicorn(*kinds: list[tuple[str, str]]) -> dict[str, Callable[[], Any]]:
    """What gunicorn itself does with the headers of a response: of the bare application, with Vary, with a cookie."""
    from gunicorn.config import Config
    from gunicorn.http.message import Request
    from gunicorn.http.unreader import IterUnreader
    from gunicorn.http.wsgi import Response

    config = Config()
    request = Request(config, IterUnreader(iter([b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"])), ("127.0.0.1", 1))

    class Sink(io.BytesIO):
        sendall = io.BytesIO.write

    def respond(headers: list[tuple[str, str]]) -> None:
        response = Response(request, Sink(), config)
        response.start_response("200 OK", headers)
        response.send_headers()

    names = ("gunicorn: the headers of the bare application", "gunicorn: with Vary", "gunicorn: with Vary, Set-Cookie")
    return {name: partial(respond, headers) for name, headers in zip(names, kinds)}
