"""The shop as a web site on loopback, over the same state machine that makes the text observations.

    with serve(catalogue) as site:
        urlopen(site.url + "/search?q=desk+lamp")

A page's address holds its whole state, so the server keeps none but the list of orders.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agenttuning.environments.webshop.addresses import address, state_at
from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.markup import html
from agenttuning.environments.webshop.shop import Shop, State
from agenttuning.errors import InfrastructureError


@dataclass
class Site:
    """A running site: where it is, and what was bought there."""

    url: str
    """Scheme, host and port, without a slash at the end."""
    orders: list[State] = field(default_factory=list)


@contextmanager
def serve(
    catalogue: Catalogue, port: int = 0, *, instruction: str | None = None, attributes: bool = False
) -> Iterator[Site]:
    """Serve a catalogue on 127.0.0.1 until the block is left.

    Args:
        catalogue: what the shop sells.
        port: 0 for any that is free.
        instruction: shown above every page where given.
        attributes: show a product's attributes as a sub-page.

    Raises:
        InfrastructureError: the port is taken.
    """
    shop = Shop(catalogue, attributes)
    orders: list[State] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state = state_at(self.path, catalogue)
            if state is None:
                self.send_error(404, "No such page")
                return
            content = html(shop.page(state), instruction).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state = state_at(self.path, catalogue)
            if state is None or state.page != "bought":
                self.send_error(404, "Nothing can be bought here")
                return
            orders.append(state)
            self.send_response(303)
            self.send_header("Location", address(state))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write no log."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise InfrastructureError(
            f"webshop: port {port} cannot be opened ({error}); use port 0 for a free one"
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Site(f"http://127.0.0.1:{server.server_address[1]}", orders)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
