"""The web sites that tasks are recorded on: where their pages come from, their licences, and how they are served.

Pages are those of published packages, fetched with `npm pack` into the machine's cache and served as they are, or this
project's own: small sites written from their descriptions (see `made_pages`), and the WebShop site. All are served on
loopback. Nothing is fetched when tasks are played; only the recorder needs this.
"""

import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from agenttuning.environments.mind2web.made_pages import pages
from agenttuning.environments.mind2web.shop_scripts import CATALOGUE
from agenttuning.environments.webshop.generator import generated_catalogue
from agenttuning.environments.webshop.site import serve
from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.machine import cache_directory

FETCH_SECONDS = 300


@dataclass(frozen=True)
class Site:
    """One site: the package its pages come from, and the split that all its tasks belong to."""

    name: str
    split: str
    domain: str
    subdomain: str
    package: str = ""
    """`NAME@VERSION`, as `npm pack` takes it; empty for the project's own sites."""
    root: str = ""
    """Folder of the package that is served as `/`."""
    mounts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """URL prefix to (package, folder), for libraries that the pages load and the package does not carry."""
    copyright: str = ""

    @property
    def is_shop(self) -> bool:
        """Whether it is the project's WebShop site."""
        return self.name == SHOP


SHOP = "webshop"
SITES = (
    Site(
        "gentelella", "train", "Office", "Administration", "gentelella@4.2.0", "dist",
        copyright="Copyright (c) 2014-2026 Aigars Silkalns & Colorlib",
    ),
    Site(
        "adminlte", "train", "Office", "Projects", "admin-lte@3.2.0",
        mounts={"plugins/jquery": ("jquery@3.7.1", "dist"), "plugins/bootstrap": ("bootstrap@4.6.2", "dist")},
        copyright="Copyright (c) 2014-2021 ColorlibHQ",
    ),
    Site(
        "material-dashboard", "train", "Office", "Billing", "material-dashboard@3.1.0",
        copyright="Copyright (c) 2017 Creative Tim",
    ),
    Site(
        "backstrap", "train", "Office", "Components", "@digitallyhappy/backstrap@0.5.1", "dist",
        copyright="Copyright (c) 2018 Cristian Tabacitu",
    ),
    Site("rail", "train", "Travel", "Ground"),
    Site("library", "train", "Public", "Education"),
    Site("cinema", "train", "Entertainment", "Movie"),
    Site("rental", "train", "Travel", "Car rental"),
    Site("bistro", "train", "Travel", "Restaurant"),
    Site("homes", "train", "Service", "Housing"),
    Site(
        "sb-admin-2", "test", "Office", "Reports", "startbootstrap-sb-admin-2@4.1.4",
        copyright="Copyright (c) 2013-2021 Start Bootstrap LLC",
    ),
    Site(SHOP, "shifted", "Shopping", "General"),
)  # fmt: skip


def fetch(package: str) -> Path:
    """Return the folder of an unpacked package, fetching it once into the machine's cache.

    Raises:
        ConfigurationError: npm is not installed.
        InfrastructureError: the package cannot be fetched.
    """
    folder = cache_directory() / "mind2web" / "packages" / package.replace("/", "_")
    if (folder / "package.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Unpacked beside its place and then moved there: what is in its place is whole.
    with TemporaryDirectory(dir=folder.parent) as beside:
        _unpack(_packed(package, Path(beside)), Path(beside, "unpacked"))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(Path(beside, "unpacked"), folder)
    return folder


def _packed(package: str, target: Path) -> Path:
    """Fetch a package into a folder and return its archive."""
    command = ["npm", "pack", package, "--silent", "--pack-destination", str(target)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except FileNotFoundError as error:
        raise ConfigurationError("recording needs npm to fetch the pages; install it (apt install npm)") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = error.stderr or str(error)
        raise InfrastructureError(f"npm pack {package} failed: {str(reason).strip()[-300:]}") from error
    return next(target.glob("*.tgz"))


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            # npm puts everything below one folder, mostly `package/`.
            member.name = member.name.partition("/")[2]
            if member.name:
                tar.extract(member, folder, filter="data")


@contextmanager
def served(site: Site) -> Iterator[str]:
    """Serve a site on a free loopback port and yield its base URL, which ends in a slash."""
    if site.is_shop:
        with serve(generated_catalogue(CATALOGUE)) as shop:
            yield f"{shop.url}/"
    elif site.package:
        mounts = {prefix: fetch(package) / folder for prefix, (package, folder) in site.mounts.items()}
        with _served_files(fetch(site.package) / site.root, mounts) as base:
            yield base
    else:
        with TemporaryDirectory() as folder:
            for name, html in pages(site.name).items():
                Path(folder, name).write_text(html, encoding="utf-8")
            with _served_files(Path(folder), {}) as base:
                yield base


@contextmanager
def _served_files(root: Path, mounts: dict[str, Path]) -> Iterator[str]:
    handler = partial(_Pages, root=root, mounts=mounts)
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a browser that leaves a page breaks off what the page was loading."""


class _Pages(SimpleHTTPRequestHandler):
    """Static files of one folder, with other folders under some prefixes; a posted form shows its page again."""

    def __init__(self, *args: object, root: Path, mounts: dict[str, Path]) -> None:
        self._mounts = mounts
        super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        """Return the file of a URL path."""
        relative = path.split("?", 1)[0].split("#", 1)[0].lstrip("/")
        for prefix, folder in self._mounts.items():
            if relative.startswith(f"{prefix}/"):
                self.directory, own = str(folder), self.directory
                try:
                    return super().translate_path(relative.removeprefix(prefix))
                finally:
                    self.directory = own
        return super().translate_path(path)

    def do_POST(self) -> None:
        """Answer a form with its page."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests are the browser's business."""
