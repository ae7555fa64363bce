"""Where SPARQL runs: a read-only store on disk that all actors of a node share, or any endpoint by its URL.

Both answer SELECT queries with rows of plain texts: IRIs as they are, literals by their lexical form.
"""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Never, Protocol

import pyoxigraph

from agenttuning.errors import ConfigurationError, InfrastructureError

Row = tuple[str, ...]
RESULTS = "application/sparql-results+json"
BUSY = (408, 429, 500, 502, 503, 504)
"""Answers of an endpoint that may be other the next time."""


class Store(Protocol):
    """What answers queries."""

    def rows(self, query: str) -> list[Row]:
        """Return the rows of a SELECT query, without unbound variables.

        Raises:
            InfrastructureError: the store cannot be reached, took too long, or gave a partial answer.
            ConfigurationError: it refuses the query: another kind of store, or a wrong URL.
        """

    def close(self) -> None:
        """Free what the store holds."""


class DiskStore:
    """A pyoxigraph store that was built before, opened read-only; any number of processes may open one."""

    def __init__(self, directory: Path) -> None:
        try:
            self._store: pyoxigraph.Store | None = pyoxigraph.Store.read_only(str(directory))
        except OSError as error:
            raise InfrastructureError(
                f"{directory}: the store does not open ({error}); delete it to build it again"
            ) from error

    def rows(self, query: str) -> list[Row]:
        """See `Store.rows`."""
        if self._store is None:
            raise RuntimeError("knowledge graph: the store was closed")
        try:
            found = self._store.query(query)
            assert isinstance(found, pyoxigraph.QuerySolutions)
            return [tuple(term.value for term in solution if term is not None) for solution in found]
        except OSError as error:
            raise InfrastructureError(f"the store on disk does not answer ({error})") from error

    def close(self) -> None:
        """See `Store.close`."""
        self._store = None


class EndpointStore:
    """A SPARQL 1.1 endpoint over HTTP (Virtuoso, Oxigraph's server, Fuseki, ...), asked by POST for JSON results.

    Args:
        url: where queries go, such as `http://127.0.0.1:8890/sparql`.
        timeout_s: limit of one request.
        default_graph: IRI of the graph to ask, where the data is not in the default one.
    """

    def __init__(self, url: str, timeout_s: float, default_graph: str | None = None) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ConfigurationError(f"environments.kg.settings.endpoint must be an http(s) URL (got {url!r})")
        self._url, self._timeout_s, self._graph = url, timeout_s, default_graph

    def rows(self, query: str) -> list[Row]:
        """See `Store.rows`."""
        fields = {"query": query}
        if self._graph is not None:
            fields["default-graph-uri"] = self._graph
        request = urllib.request.Request(
            self._url,
            data=urllib.parse.urlencode(fields).encode(),
            headers={"Accept": RESULTS, "Content-Type": "application/x-www-form-urlencoded"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                partial = response.headers.get("X-SQL-State")
                body = response.read()
        except urllib.error.HTTPError as error:
            self._refused(error)
        except (OSError, http.client.HTTPException) as error:
            raise InfrastructureError(
                f"SPARQL endpoint {self._url}: no answer within {self._timeout_s:g} s ({error}); "
                "see environments.kg.settings.endpoint_timeout_s"
            ) from error
        if partial:
            raise InfrastructureError(
                f"SPARQL endpoint {self._url}: a partial answer (state {partial}); raise the server's time limit"
            )
        return self._read(body)

    def close(self) -> None:
        """See `Store.close`."""

    def _read(self, body: bytes) -> list[Row]:
        try:
            found = json.loads(body)
            names = found["head"]["vars"]
            return [tuple(row[name]["value"] for name in names if name in row) for row in found["results"]["bindings"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InfrastructureError(
                f"SPARQL endpoint {self._url}: the answer is not {RESULTS} ({body[:80]!r})"
            ) from error

    def _refused(self, error: urllib.error.HTTPError) -> Never:
        with error:
            said = error.read(300).decode(errors="replace").strip()
        where = f"SPARQL endpoint {self._url}: status {error.code}: {said}"
        if error.code in BUSY:
            wait = error.headers.get("Retry-After", "")
            raise InfrastructureError(where, retry_after=float(wait) if wait.isdigit() else None) from error
        raise ConfigurationError(f"{where}; environments.kg.settings.endpoint must take SPARQL 1.1 queries") from error
