"""A MariaDB (or MySQL) server behind the engine's interface: one database and one user per episode, dropped after.

The agent's statements run as a user who sees its own database alone and has neither FILE nor any right over the
server. A statement is stopped at the time limit by the server, and where it evades that, by killing its connection.
What is shown and compared is written as SQLite's engine does: a decimal is a number, DESCRIBE has two columns.
"""

import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

from agenttuning.environments.database.dialect import ShowColumns, ShowTables, read_show
from agenttuning.environments.database.engine import Reply, changed, rows_reply
from agenttuning.environments.database.server import Address
from agenttuning.environments.database.tables import Hash, Table, fingerprint
from agenttuning.errors import InfrastructureError

RIGHTS = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, CREATE TEMPORARY TABLES, CREATE VIEW, "
    "SHOW VIEW, TRIGGER"
)
STOPPED, LOST = 1969, (2006, 2013)
"""Error numbers: stopped at max_statement_time; connection lost."""
_COUNTED = ("insert", "update", "delete", "replace", "with")
_PATIENCE = 1.0
"""Seconds beyond the time limit after which a connection that does not answer is killed."""


class MariaDBEngine:
    """One episode's database on a server.

    Args:
        address: the server, and a user who may create databases and users.
        timeout_s: limit on one statement, in seconds.
        max_chars: length at which a result's text is cut.

    Raises:
        InfrastructureError: the server does not answer, or refuses to create a database.
    """

    def __init__(self, address: Address, timeout_s: float = 2.0, max_chars: int = 800) -> None:
        self.timeout_s = timeout_s
        self.max_chars = max_chars
        self.name = f"at_{secrets.token_hex(8)}"
        self._address = address
        self._password = secrets.token_hex(16)
        self._agent: Any = None
        self._closed = False
        try:
            self._admin = self._connect(address.user, address.password, read_timeout=60)
            self._limited = "mariadb" in self._admin.get_server_info().lower()
            self._do(f"CREATE DATABASE {self.name} CHARACTER SET utf8mb4")
            self._do(f"CREATE USER '{self.name}'@'%' IDENTIFIED BY '{self._password}'")
            pattern = self.name.replace("_", r"\_")
            self._do(f"GRANT {RIGHTS} ON `{pattern}`.* TO '{self.name}'@'%'")
        except pymysql.err.MySQLError as error:
            raise InfrastructureError(f"database: the server refuses an episode's database ({error})") from error

    def create(self, tables: Iterable[Table]) -> None:
        """Create and fill the tables."""
        for table in tables:
            columns = ", ".join(f"{_quoted(n)} {kind}" for n, kind in zip(table.columns, table.types, strict=True))
            self._do(f"CREATE TABLE {self.name}.{_quoted(table.name)} ({columns})")
            if table.rows:
                marks = ", ".join(["%s"] * len(table.columns))
                with self._admin.cursor() as cursor:
                    cursor.executemany(f"INSERT INTO {self.name}.{_quoted(table.name)} VALUES ({marks})", table.rows)

    def execute(self, sql: str) -> Reply:
        """Run one statement of the agent and return its rows, its count of changed rows, or its error."""
        request = read_show(sql)
        if request is not None:
            return self._show(request)
        try:
            cursor = self._session().cursor(SSCursor)
        except pymysql.err.OperationalError as error:
            return self._failed(error)
        try:
            if self._limited:
                cursor.execute(f"SET SESSION max_statement_time = {self.timeout_s:g}")
            cursor.execute(sql)
            if cursor.description is None:
                counted = sql.lstrip("( \t\r\n").casefold().startswith(_COUNTED)
                return changed(cursor.rowcount if counted else -1)
            return rows_reply((tuple(map(_plain, row)) for row in cursor), self.max_chars)
        except pymysql.err.MySQLError as error:
            return self._failed(error)
        except (ValueError, OverflowError) as error:
            return Reply(f"Error: {error}", error=True)
        finally:
            with suppress(pymysql.err.MySQLError, AttributeError):
                cursor.close()  # Reads what is left of a cut result; the time limit bounds it.

    def state(self, tables: Sequence[Table], by: Hash = fingerprint) -> dict[str, str | None]:
        """Return the fingerprint of each table as it is now, None for one that lost a column or is gone.

        The agent's session ends first, which rolls an open transaction back.
        """
        self._end_session()
        self._do("SET lock_wait_timeout = 5")
        if self._limited:
            self._do(f"SET max_statement_time = {10 * self.timeout_s:g}")
        return {table.name: self._fingerprint(table, by) for table in tables}

    def close(self) -> None:
        """Drop the database and its user. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._end_session()
        try:
            self._do(f"DROP DATABASE IF EXISTS {self.name}")
            self._do(f"DROP USER IF EXISTS '{self.name}'@'%'")
            self._admin.close()
        except pymysql.err.MySQLError as error:
            raise InfrastructureError(f"database: the server does not drop {self.name} ({error})") from error

    def _connect(self, user: str, password: str, read_timeout: float, **more: Any) -> Any:
        at = self._address
        return pymysql.connect(
            user=user,
            password=password,
            host=at.host,
            port=at.port,
            unix_socket=at.socket,
            ssl_disabled=at.socket is not None,
            charset="utf8mb4",
            autocommit=True,
            client_flag=CLIENT.FOUND_ROWS,
            read_timeout=read_timeout,
            connect_timeout=20,
            **more,
        )

    def _session(self) -> Any:
        if self._agent is None:
            patience = self.timeout_s + _PATIENCE
            # A quotient of whole numbers has 4 digits by default, too few to equal SQLite's.
            self._agent = self._connect(
                self.name,
                self._password,
                read_timeout=patience,
                database=self.name,
                init_command="SET div_precision_increment = 12",
            )
        return self._agent

    def _end_session(self) -> None:
        if self._agent is not None:
            session, self._agent = self._agent, None
            with suppress(pymysql.err.MySQLError):
                self._do(f"KILL CONNECTION {session.thread_id()}")
            with suppress(pymysql.err.MySQLError, OSError):
                session.close()

    def _failed(self, error: pymysql.err.MySQLError) -> Reply:
        number, text = (*error.args, "", "")[:2]
        if number in LOST:
            self._end_session()
            self._do("SELECT 1")  # A server that is gone breaks here, and the episode is played again.
        if number in LOST or number == STOPPED:
            return Reply(f"Error: the statement was stopped after {self.timeout_s:g} seconds", error=True)
        if number == 1064 and ";" in str(text):
            text = f"{text} (one statement per action)"
        return Reply(f"Error: {str(text or error).replace(f'{self.name}.', '').replace(self.name, 'db')}", error=True)

    def _do(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[tuple[Any, ...], ...]:
        """Run a statement as the administrator."""
        try:
            with self._admin.cursor() as cursor:
                cursor.execute(sql, values or None)
                return tuple(cursor.fetchall())
        except pymysql.err.OperationalError as error:
            if error.args[0] in LOST:
                raise InfrastructureError(f"database: the server is gone ({error})") from error
            raise

    def _fingerprint(self, table: Table, by: Hash) -> str | None:
        found = (
            "SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_name = %s AND table_type = %s"
        )
        if not self._do(found, (self.name, table.name, "BASE TABLE")):
            return None
        try:
            columns = ", ".join(map(_quoted, table.columns))
            return by(self._do(f"SELECT {columns} FROM {self.name}.{_quoted(table.name)}"))
        except (pymysql.err.OperationalError, pymysql.err.ProgrammingError):
            return None

    def _show(self, request: ShowTables | ShowColumns) -> Reply:
        if isinstance(request, ShowTables):
            listed = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s ORDER BY table_name"
            return rows_reply(self._do(listed, (self.name,)), self.max_chars)
        listed = (
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position"
        )
        rows = self._do(listed, (self.name, request.table))
        if not rows:
            return Reply(f"Error: no such table: {request.table}", error=True)
        return rows_reply(rows, self.max_chars)


def _plain(value: Any) -> Any:
    """Return a value as SQLite would give it."""
    if isinstance(value, Decimal):
        whole = value.as_tuple().exponent == 0
        return int(value) if whole else float(value)
    if isinstance(value, date | time | timedelta):
        return str(value)
    return value


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
