"""A MariaDB server of this process: started on first use, shared by all environments of the process, gone with it.

It listens on a Unix socket in a directory of its own and on no port. A shell stands between: it waits for the end of
a pipe that only this process holds, then ends the server and removes the directory, so that nothing is left behind
even where this process is killed. Whoever has a server already names it in the settings, and none is started.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql

from agenttuning.errors import ConfigurationError, InfrastructureError

READY_SECONDS = 30.0
_KEEPER = '"$@" >log 2>&1 & server=$!; read -r _; kill $server; wait $server; cd / && rm -rf "$0"'
"""What the shell between does; `$0` is the server's directory, and its working directory."""
_OPTIONS = (
    "--skip-networking",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-flush-method=nosync",
    "--innodb-file-per-table=0",
    "--performance-schema=OFF",
    "--lower-case-table-names=1",
    "--local-infile=0",
    "--event-scheduler=OFF",
    "--max-connections=500",
)
INSTALL = (
    "apt-get install --no-install-recommends mariadb-server-core mariadb-client-core, or set "
    "environments.db.settings.server=mysql://USER:PASSWORD@HOST:PORT"
)


@dataclass(frozen=True)
class Address:
    """Where a server is, and as whom to administer it."""

    user: str = "root"
    password: str = ""
    host: str = "localhost"
    port: int = 3306
    socket: str | None = None


def read_address(url: str) -> Address:
    """Read `mysql://USER:PASSWORD@HOST:PORT` or `mysql://USER:PASSWORD@localhost?socket=/path`.

    Raises:
        ConfigurationError: the text is no such URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 3306
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("mysql", "mariadb") or not parts.username or not parts.hostname:
        raise ConfigurationError(
            f"environments.db.settings.server: write it as mysql://USER:PASSWORD@HOST:PORT (got {url!r}); the user "
            "must be allowed to create databases and users"
        )
    socket = parse_qs(parts.query).get("socket", [None])[0]
    return Address(unquote(parts.username), unquote(parts.password or ""), parts.hostname, port, socket)


class Server:
    """A running server. `stop` ends it and removes its files."""

    def __init__(self) -> None:
        binaries = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        daemon = shutil.which("mariadbd", path=binaries)
        install = shutil.which("mariadb-install-db", path=binaries)
        if daemon is None or install is None:
            raise ConfigurationError(f"environments.db.settings.engine=mariadb needs a MariaDB server: {INSTALL}")
        self._folder = Path(tempfile.mkdtemp(prefix="agenttuning-mariadb-"))
        user = []
        if os.geteuid() == 0:
            shutil.chown(self._folder, "nobody")
            user = ["--user=nobody"]
        common = ["--no-defaults", f"--datadir={self._folder}", *user]
        made = subprocess.run(
            [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise InfrastructureError(f"database: mariadb-install-db failed: {made.stderr.strip()[-300:]}")
        self.address = Address(socket=str(self._folder / "s"))
        options = [f"--socket={self.address.socket}", f"--secure-file-priv={self._folder}", "--pid-file=pid"]
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, str(self._folder), daemon, *common, *_OPTIONS, *options],
            cwd=self._folder,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._await()

    def _await(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                pymysql.connect(unix_socket=self.address.socket, user="root").close()
                return
            except pymysql.err.OperationalError as error:
                if time.monotonic() > deadline:
                    log = (self._folder / "log").read_text(errors="replace")[-300:]
                    self.stop()
                    raise InfrastructureError(f"database: MariaDB does not start ({error}): {log}") from error
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server and remove its files. Safe to call twice."""
        if self._keeper.stdin is not None and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
        self._keeper.wait()


_lock = threading.Lock()
_server: Server | None = None
_owner = 0
_users = 0


def acquire() -> Address:
    """Return the address of this process' server, started where it does not run yet. Each needs one `release`.

    Raises:
        ConfigurationError: MariaDB is not installed.
        InfrastructureError: it does not start.
    """
    global _server, _owner, _users
    with _lock:
        if _owner != os.getpid():  # A fork has its parent's server, and must leave it alone.
            _server, _owner, _users = None, os.getpid(), 0
        if _server is None:
            _server = Server()
        _users += 1
        return _server.address


def release() -> None:
    """Give the server back; the last one to do so ends it."""
    global _server, _users
    with _lock:
        if _owner != os.getpid() or _users == 0:
            return
        _users -= 1
        if _users == 0 and _server is not None:
            _server.stop()
            _server = None
