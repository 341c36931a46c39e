"""Serves a tracker function of CVAT over HTTP (docs/serving.md).

python -m tarvis_jax.serve --checkpoint PATH [--port 8070]
"""

import http.server
import json
import logging
import socket
import threading
from typing import Any

from tarvis_jax import command_line
from tarvis_jax.serve.service import Gone, Limits, Service

_MEBIBYTE = 2**20
_TIMEOUT = 30.0  # seconds in which a client must send the next bytes
_MAX_REQUESTS = 16  # at once; more are turned away


class Server(http.server.ThreadingHTTPServer):
    """Answers GET / with what the service is, and POST / with tracks; one thread for each connection."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], service: Service):
        super().__init__(address, _Handler)
        self.service = service
        self.free = threading.BoundedSemaphore(_MAX_REQUESTS)

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        if not self.free.acquire(blocking=False):
            request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket.socket, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: socket.socket, client_address: Any) -> None:
        logging.getLogger(__name__).info("%s went away", client_address[0], exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection with one request."""

    timeout = _TIMEOUT
    server: Server

    def do_GET(self) -> None:
        if self.path != "/":
            self._send(404, {"error": "there is only /"})
        else:
            self._send(200, self.server.service.describe())

    def do_POST(self) -> None:
        if self.path != "/":
            self._send(404, {"error": "there is only /"})
            return
        # A page in a browser cannot send this type to another site without asking, and nobody answers that question.
        if self.headers.get_content_type() != "application/json":
            self._send(415, {"error": "Content-Type: expected application/json"})
            return
        length, limit = self.headers.get("Content-Length", ""), self.server.service.limits.max_bytes
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            self._send(411, {"error": "Content-Length: expected the number of bytes of the request"})
            return
        if int(length) > limit:
            self._send(413, {"error": f"request: expected at most {limit} bytes, found {int(length)}"})
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return  # the client has gone
        try:
            self._send(200, self.server.service.answer(body))
        except Gone as error:
            self._send(410, {"error": str(error)})
        except ValueError as error:
            self._send(400, {"error": str(error)})
        except Exception:
            logging.getLogger(__name__).exception("a request failed")
            self._send(500, {"error": "an error of the service; its log says more"})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        logging.getLogger(__name__).info("%s %s", self.address_string(), format % args)


def main(arguments: list[str]) -> None:
    """Serves until it is interrupted; ValueError for a model or settings that do not serve."""
    parser = command_line.Parser(
        prog="python -m tarvis_jax.serve",
        description="Follows objects over HTTP, with the contract of CVAT's tracker functions.",
        epilog="docs/serving.md explains the requests. --debug shows the traceback of errors.",
    )
    parser.add_argument("--checkpoint", required=True, help="whatever tarvis_jax.load takes")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; the default is this machine alone")
    parser.add_argument("--port", type=int, default=8070, help="0 takes a free one")
    parser.add_argument("--dataset", help="whose way of resizing to use; by default the one of task vos")
    parser.add_argument("--clip_length", type=int, help="frames that the network sees at once")
    parser.add_argument("--min_dim", type=int, help="smaller side after resizing, in pixels")
    parser.add_argument("--device", help="such as cpu or gpu:1")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of activations")
    parser.add_argument("--max_mib", type=int, default=Limits.max_bytes // _MEBIBYTE, help="of a request")
    parser.add_argument("--cache_mib", type=int, default=Limits.cache_bytes // _MEBIBYTE, help="of kept frames")
    args = parser.parse_args(arguments)
    if not 0 <= args.port < 2**16 or args.max_mib < 1 or args.cache_mib < 1:
        raise ValueError("expected --port in 0..65535 and --max_mib and --cache_mib of at least 1")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)

    import tarvis_jax  # after the arguments: it loads the network
    from tarvis_jax.compiled import keep_between_runs
    from tarvis_jax.serve.tracker import Tracker

    keep_between_runs()
    settings = {key: getattr(args, key) for key in ("clip_length", "min_dim") if getattr(args, key) is not None}
    model = tarvis_jax.load(args.checkpoint, dtype=args.dtype, device=args.device)
    limits = Limits(max_bytes=args.max_mib * _MEBIBYTE, cache_bytes=args.cache_mib * _MEBIBYTE)
    service = Service(Tracker(model, args.dataset, **settings), limits)
    with Server((args.host, args.port), service) as server:
        print(f"serving {args.checkpoint} on http://{args.host}:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    command_line.run_and_exit(main)
