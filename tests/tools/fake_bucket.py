"""A Google Cloud Storage bucket on this machine: the one request of its JSON API that reading shards needs.

    GET /storage/v1/b/<bucket>/o/<object>?alt=media, with a Range

Google's storage client talks to it where CLOUD_STORAGE_EMULATOR_ENDPOINT names its address.
"""

import http.server
import json
import pathlib
import re
import socket
import sys
import threading
import urllib.parse
from typing import Any

NAME = "bucket"
_SEND_BUFFER = 16_384  # small, so that what is sent is little more than what the client takes
_REQUEST = re.compile(rf"/storage/v1/b/{NAME}/o/([^/?]+)\?alt=media")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class FakeBucket:
    """Serves the files below `root` as the objects of gs://bucket until it is closed.

    Attributes:
      root: the folder.
      failures: the HTTP status with which requests are answered whose object's name contains the key.
      requests: (name of the object, first byte, bytes sent) of each answered request.
    """

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.failures: dict[str, int] = {}
        self.requests: list[tuple[str, int, int]] = []
        handler = type("Handler", (_Handler,), {"bucket": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients hang up as they like
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: FakeBucket

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        super().setup()

    def do_GET(self) -> None:
        request = _REQUEST.fullmatch(self.path)
        if request is None:
            return self._fail(400)
        name = urllib.parse.unquote(request[1])
        status = next((status for part, status in self.bucket.failures.items() if part in name), 0)
        path = self.bucket.root / name
        if status or not path.is_file():
            return self._fail(status or 404)
        size = path.stat().st_size
        first, last = self._range(size)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        sent = 0
        with path.open("rb") as file:
            file.seek(first)
            try:
                while part := file.read(min(_SEND_BUFFER, last + 1 - first - sent)):
                    sent += self.wfile.write(part)
            except ConnectionError:  # the client has what it wants
                self.close_connection = True
        self.bucket.requests.append((name, first, sent))

    def _range(self, size: int) -> tuple[int, int]:
        """First and last byte that are asked for."""
        first, last = _RANGE.fullmatch(self.headers.get("Range", "bytes=0-")).groups()
        if not first:
            return max(0, size - int(last)), size - 1
        return int(first), min(int(last), size - 1) if last else size - 1

    def _fail(self, status: int) -> None:
        body = json.dumps({"error": {"code": status, "message": f"made to answer {status}"}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: Any) -> None:
        pass
