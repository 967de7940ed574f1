"""What gunicorn serves in the end-to-end benchmark: ``benchmarks.wsgi:application``, chosen by the environment."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .contenders import contenders
from .cost import FLOOR, floor_functions
from .tiny import Lab


def with_primitives(mode: str) -> Callable[..., Any]:
    bare = contenders()["rollsession-memory"].build(Lab("bare"))
    primitives = floor_functions()["both" if mode == "roll" else "open"]

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        primitives()
        return bare(environ, start_response)

    return application


def chosen(name: str, mode: str) -> Callable[..., Any]:
    if name == FLOOR and mode != "bare":
        return with_primitives(mode)
    found: Callable[..., Any] = contenders()[name].build(
        Lab(mode, os.environ["BENCH_REDIS"], directory=Path(os.environ["BENCH_DIRECTORY"]))
    )
    return found


application = chosen(os.environ["BENCH_CONTENDER"], os.environ["BENCH_MODE"])
