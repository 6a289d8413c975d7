"""The command line in processes that begin with everything imported.

A fork server imports torch and the rooms once, and each command is a fork of it: a process of its
own, without the seconds that the imports take.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PRELOADED = ["spikefront.__main__", "reports", "torchvision", "matplotlib.pyplot"]
_CONTEXT = multiprocessing.get_context("forkserver")


def _main(
    arguments: list[str], folder: str, out: str, err: str, environment: dict[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for path, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ["PYTHONPATH"] = str(ROOT)  # of workers that it starts
    sys.argv = ["spikefront", *arguments]
    sys.path.insert(0, folder)
    from spikefront.__main__ import main

    main()


def run(arguments: list[str], folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; one that starts processes of its own begins from nothing."""
    if "--workers" in arguments:
        return subprocess.run(
            [sys.executable, "-m", "spikefront", *arguments], cwd=folder, capture_output=True,
            text=True, timeout=seconds, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    logs = folder.parent / f"{folder.name}.out", folder.parent / f"{folder.name}.err"
    process = _CONTEXT.Process(
        target=_main, args=(arguments, str(folder), *map(str, logs), dict(os.environ))
    )
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{arguments} took more than {seconds} s")
    out, err = (log.read_text("utf-8") for log in logs)
    return subprocess.CompletedProcess(arguments, process.exitcode, out, err)
