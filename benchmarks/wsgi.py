"""What gunicorn serves in the end-to-end benchmark: ``benchmarks.wsgi:application``, chosen by the environment."""

import os
from pathlib import Path

from .contenders import contenders
from .tiny import Lab

application = contenders()[os.environ["BENCH_CONTENDER"]].build(
    Lab(os.environ["BENCH_MODE"], os.environ["BENCH_REDIS"], directory=Path(os.environ["BENCH_DIRECTORY"]))
)
