"""A bare HTTP client: sends what it is told, also what no library would send."""

import http.client
import socket


def request(
    url: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, timeout: float = 30
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection(url, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def raw(url: str, blob: bytes, timeout: float = 30, finish: bool = True) -> bytes:
    """What the server sends back for `blob`, until it closes; with `finish` the sending side is closed after it."""
    host, _, port = url.rpartition(":")
    with socket.create_connection((host, int(port)), timeout) as connection:
        connection.sendall(blob)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := _receive(connection):
            answer += part
        return answer


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""
