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
    from wsgi_rollsession import caching, document, policy, seal, token
    from wsgi_rollsession.arrival import Arrival
    from wsgi_rollsession.exchange import Exchange
    from wsgi_rollsession.presented import Site
    from wsgi_rollsession.session import Session

    bench = Bench(contenders()["rollsession-sqlite"], "", (SIZE,), 1)
    application = bench.applications["still"]
    site = Site(application.sessions.settings, application.sessions.revocations)
    header, now = bench.environs["still", "read", SIZE]["HTTP_COOKIE"], int(CLOCKS[id(application)]() * 1000)
    found, opening = site.cookies.parse(header), site.open_header(header)
    ((name, value),) = found.sessions
    ((lease_value,),) = found.leases.values()
    ((_, opened),) = opening.sessions
    record, text = opened.record, opened.record.data.decode()
    data = document.decode(text)[0]
    plaintext = token.pack(record)
    lease, lease_name = token.Lease(now, opened.idle, record.version), site.cookies.lease_name(name)
    cookie = site.cookies.header(lease_name, lease_value, 3600)
    given = [("Content-Type", "application/json"), ("Content-Length", "17")]
    return {
        "objects of the request": lambda: Session(Exchange(site, header)),
        "find a fresh lease": lambda: site.last_lease(header),
        "recall what was opened": lambda: Arrival(site.open_header(header)),
        "or take the header apart": lambda: site.cookies.parse(header),
        "and open it anew: the session": lambda: token.unpack(seal.open_session(site.ring, name, value)[1]),
        "and open it anew: the lease": lambda: seal.open_lease(site.ring, lease_name, record.id, lease_value),
        "ask the fences": lambda: policy.refused(site.store.lookup(opened.keys), opened.limits),
        "JSON to data": lambda: document.decode(text),
        "data to JSON": lambda: document.encode(data).encode(),
        "seal a lease": lambda: seal.seal_lease(site.ring, lease_name, record.id, lease),
        "seal a session": lambda: seal.seal_session(site.ring, name, now, plaintext),
        "may it be stored?": lambda: caching.is_storable(given, now / 1000),
        "add Vary and a cookie": lambda: caching.merged(given, [cookie], lease_only=True, was_read=True),
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
