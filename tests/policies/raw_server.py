"""A server on loopback that answers with bytes as they are, over TCP or TLS: for what no proper server would send."""

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def http(status: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def raw_server(answer: bytes | None, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Answer every request with `answer` and close; None never answers. Yields the base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_ones = []

    def serve() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            open_ones.append(connection)
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with suppress(OSError):
            stream = tls.wrap_socket(connection, server_side=True) if tls else connection
            open_ones.append(stream)
            stream.recv(65536)
            if answer is None:
                stream.recv(65536)
            else:
                stream.sendall(answer)
            stream.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.close()
        for connection in open_ones:
            connection.close()


def self_signed(directory: Path) -> ssl.SSLContext:
    """A server's TLS context with a certificate that nobody signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    certificate = builder.sign(key, hashes.SHA256())
    path = directory / "server.pem"
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.TraditionalOpenSSL
    encoding = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(encoding, form, plain) + certificate.public_bytes(encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
