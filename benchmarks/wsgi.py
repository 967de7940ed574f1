"""What gunicorn serves in the end-to-end benchmark: ``benchmarks.wsgi:application``, chosen by the environment."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .contenders import contenders
from .cost import FLOOR, floor_functions
from .tiny import Lab


def with_primitives(mode: str) -> Callable[..., Any]:
    """The least that any encrypted cookie session costs: its primitives, and the headers that it cannot do without."""
    bare = contenders()["rollsession-memory"].build(Lab("bare"))
    functions = floor_functions()
    headers = [("Vary", "Cookie")]
    if mode == "roll":
        primitives = functions["both"]
        headers.append(
            ("Set-Cookie", f"session={functions['seal']().decode()}; Max-Age=86400; Path=/; Secure; HttpOnly")
        )
    else:
        primitives = functions["open"]

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        primitives()
        return bare(environ, lambda status, given: start_response(status, given + headers))

    return application


def chosen(name: str, mode: str) -> Callable[..., Any]:
    if name == FLOOR and mode != "bare":
        return with_primitives(mode)
    found: Callable[..., Any] = contenders()[name].build(
        Lab(mode, os.environ["BENCH_REDIS"], directory=Path(os.environ["BENCH_DIRECTORY"]))
    )
    return found


application = chosen(os.environ["BENCH_CONTENDER"], os.environ["BENCH_MODE"])
