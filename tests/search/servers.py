"""Real servers on loopback, each a test's own."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPEN = {**os.environ, "TMPDIR": "/var/tmp"}  # ours may be closed to the user that a server runs as


def free_port() -> int:
    """Below the ports that the system gives to clients: one might take it during a restart."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def wait_for(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until somebody listens."""
    for _ in range(300):
        assert process is None or process.poll() is None, "the server ended"
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"no server listens on {port}")


def program(name: str, *places: str) -> str:
    """Where a program is; skips the test without it."""
    elsewhere = [str(path) for place in places for path in sorted(Path("/").glob(place))]
    for path in (shutil.which(name), *elsewhere):
        if path:
            return path
    pytest.skip(f"{name} is not installed")


def as_user(name: str, folder: Path) -> list[str]:
    """How to start a server that does not run as root."""
    if os.getuid() != 0:
        return []
    shutil.chown(folder, name)
    return ["runuser", "-u", name, "--"]


class PostgreSQL:
    """A database of its own."""

    def __init__(self, folder: Path) -> None:
        self.programs = Path(program("initdb", "usr/lib/postgresql/*/bin/initdb")).parent
        self.folder, self.port = folder / "data", free_port()
        self.folder.mkdir()
        self.url = f"postgresql+psycopg://tester@127.0.0.1:{self.port}/postgres"
        self.user = as_user("postgres", self.folder)
        self._run("initdb", "-D", self.folder, "-U", "tester", "-A", "trust", "--no-sync")

    def _run(self, name: str, *arguments: object) -> None:
        command = [*self.user, str(self.programs / name), *map(str, arguments)]
        # Into a file: the server would keep a pipe open.
        with (self.folder.parent / "programs.log").open("a+") as log:
            done = subprocess.run(command, check=False, stdout=log, stderr=log, cwd="/")
            log.seek(0)
            assert done.returncode == 0, log.read()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self.folder, "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.folder, "-m", "immediate", "-w", "stop")


class Process:
    """A server that is one process in the foreground."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[object]:
        raise NotImplementedError

    def start(self) -> None:
        self.process = subprocess.Popen(
            list(map(str, self.command())), cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**OPEN, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        wait_for(self.port, self.process)

    def stop(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)


class Redis(Process):
    """Keeps its log on disk, so that a kill loses nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.program = program("redis-server")
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[object]:
        always = ["--appendonly", "yes", "--appendfsync", "always"]
        return [self.program, "--port", self.port, "--bind", "127.0.0.1", *always]


class MariaDB(Process):
    """What a mysql:// URL means."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.program = program("mariadbd", "usr/sbin/mariadbd")
        self.url = f"mysql+pymysql://tester@127.0.0.1:{self.port}/spikefront"
        self.data = folder / "data"
        self.data.mkdir()
        self.user = as_user("mysql", self.data)
        subprocess.run(
            [*self.user, program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}",
             "--auth-root-authentication-method=normal"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env=OPEN,
        )  # fmt: skip
        self.setup = folder / "setup.sql"
        statements = (
            "CREATE DATABASE IF NOT EXISTS spikefront",
            "CREATE USER IF NOT EXISTS tester@localhost",
            "GRANT ALL ON spikefront.* TO tester@localhost",
        )
        self.setup.write_text("".join(f"{statement};\n" for statement in statements))

    def command(self) -> list[object]:
        place = [f"--datadir={self.data}", f"--socket={self.data / 'socket'}", "--pid-file=pid"]
        listen = ["--bind-address=127.0.0.1", f"--port={self.port}"]
        return [*self.user, self.program, "--no-defaults", *place, *listen,
                f"--init-file={self.setup}"]  # fmt: skip

    def stop(self, number: int = signal.SIGTERM) -> int:
        return super().stop(number)


class Proxy(Process):
    """`spikefront storage serve` before another storage."""

    def __init__(self, folder: Path, behind: str) -> None:
        super().__init__(folder)
        pytest.importorskip("grpc")
        self.url, self.behind = f"grpc://127.0.0.1:{self.port}", behind

    def command(self) -> list[object]:
        serve = [sys.executable, "-m", "spikefront", "storage", "serve"]
        return [*serve, "--storage", self.behind, "--host", "127.0.0.1", "--port", self.port]
