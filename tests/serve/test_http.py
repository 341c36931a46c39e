"""Real requests to a real server: what CVAT sends, and what nobody should."""

import base64
import http.client
import io
import json
import socket
import struct
import threading
import zlib

import numpy as np
import PIL.Image
import pytest

import tarvis_jax
from tarvis_jax.serve import __main__ as serve_main
from tarvis_jax.serve import service as service_module
from tarvis_jax.serve.__main__ import Server
from tarvis_jax.serve.service import Limits, Service
from tests.serve.color_tracker import CLIP_LENGTH, is_same, make_model, make_tracker, moving_squares

cvat_masks = pytest.importorskip("cvat_sdk.masks", reason="needs cvat-sdk (tests/requirements.txt)")

FRAMES, MASKS = moving_squares(7)
HEIGHT, WIDTH = MASKS.shape[2:]
LIMITS = Limits(max_bytes=400_000, max_pixels=100_000, max_objects=5)


@pytest.fixture(scope="module")
def server():
    with Server(("127.0.0.1", 0), Service(make_tracker(), LIMITS)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def send(server, request, method="POST", path="/", **headers):
    """(status, answer) of a request whose body is JSON, or bytes that are sent as they are."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def shape(mask):
    return {"type": "mask", "points": cvat_masks.encode_mask(mask)}


def decode(points):
    return cvat_masks.decode_mask(points, image_width=WIDTH, image_height=HEIGHT)


def begin(server, number=0):
    status, answer = send(server, {"image": encoded(FRAMES[number]), "shapes": [shape(m) for m in MASKS[number]]})
    assert status == 200, answer
    return answer["states"]


def test_two_objects_through_a_video(server):
    """As CVAT does: shapes begin, then states alone go to and fro; CVAT keeps them as text."""
    given = [shape(mask) for mask in MASKS[0]]
    status, answer = send(server, {"image": encoded(FRAMES[0]), "shapes": given, "states": []})
    assert status == 200 and answer["shapes"] == given
    states = answer["states"]
    for t in range(1, 7):
        states = json.loads(json.dumps(states))
        status, answer = send(server, {"image": encoded(FRAMES[t]), "shapes": [], "states": states})
        assert status == 200, answer
        states = answer["states"]
        for found, mask in zip(answer["shapes"], MASKS[t], strict=True):
            if mask.any():
                assert found["type"] == "mask"
                assert is_same(decode(found["points"]), mask)
            else:
                assert found is None  # behind something: it is there again in the next frame
    assert max(len(json.dumps(state)) for state in states) < 1000


def test_forms_and_a_state_for_some(server):
    """Bare lists, as older versions of CVAT send and take; an outline; a second object that begins while one runs."""
    points = cvat_masks.encode_mask(MASKS[0, 0])
    image = encoded(FRAMES[0], "JPEG", quality=100, subsampling=0)
    assert send(server, {"image": image, "shapes": [points], "states": [None]})[0] == 200
    _, first = send(server, {"image": encoded(FRAMES[0]), "shapes": [points]})
    corners = [44.0, 32.0, 55.0, 32.0, 55.0, 43.0, 44.0, 43.0]
    request = {
        "image": encoded(FRAMES[1]),
        "shapes": [points, {"type": "polygon", "points": corners}],
        "states": first["states"],
    }
    status, second = send(server, request)
    assert status == 200 and second["shapes"][1] == request["shapes"][1]
    assert is_same(decode(second["shapes"][0]), MASKS[1, 0])
    status, third = send(server, {"image": encoded(FRAMES[2]), "states": second["states"]})
    assert status == 200
    assert is_same(decode(third["shapes"][0]), MASKS[2, 0])
    outline = np.reshape(third["shapes"][1]["points"], (-1, 2))
    assert outline.min(0).tolist() == [44, 36] and outline.max(0).tolist() == [55, 47]


def test_what_it_says_of_itself(server):
    status, answer = send(server, b"", "GET")
    assert status == 200 and answer["kind"] == "tracker" and answer["clip_length"] == CLIP_LENGTH
    assert answer["supported_shape_types"] == ["mask", "polygon"]
    assert send(server, b"", "GET", "/../etc/passwd")[0] == 404 and send(server, {}, path="/other")[0] == 404


def png(width, height, content=b""):
    """A PNG file of the given size in its header, whatever its content."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return base64.b64encode(file).decode()


IMAGE, SHAPES = encoded(FRAMES[0]), [shape(MASKS[0, 0])]
GIF = encoded(FRAMES[0], "GIF")
HOSTILE = {
    "no JSON": (b"image=1", 400, "expected a JSON object"),
    "no UTF-8": (b'{"image": "\xff\xfe"}', 400, "expected a JSON object"),
    "a list": ([1, 2], 400, "expected a JSON object, found list"),
    "nested": (b"[" * 200_000, 400, "nested too deeply"),
    "a number of 10^5 digits": (b'{"image": ' + b"1" * 100_000 + b"}", 400, "expected a JSON object"),
    "nothing": ({}, 400, "image: expected an image file in base64, found NoneType"),
    "image is a number": ({"image": 3, "shapes": SHAPES}, 400, "image: expected an image file in base64"),
    "no base64": ({"image": "!" + IMAGE, "shapes": SHAPES}, 400, "image: expected base64"),
    "no ASCII": ({"image": "é" * 40, "shapes": SHAPES}, 400, "image: expected base64"),
    "no image": ({"image": base64.b64encode(b"text" * 9).decode(), "shapes": SHAPES}, 400, "found something else"),
    "another format": ({"image": GIF, "shapes": SHAPES}, 400, "expected a file of JPEG, PNG, WEBP, BMP"),
    "cut off": ({"image": png(64, 64, b"12"), "shapes": SHAPES}, 400, "image: the file is damaged"),
    "bomb": ({"image": png(60_000, 60_000), "shapes": SHAPES}, 400, "image: expected at most 100000 pixels"),
    "large": ({"image": png(1000, 101), "shapes": SHAPES}, 400, "found 1000 x 101"),
    "no pixels": ({"image": png(0, 5), "shapes": SHAPES}, 400, "image: "),
    "no shapes": ({"image": IMAGE}, 400, "expected at least one shape or state"),
    "shapes are text": ({"image": IMAGE, "shapes": "abc"}, 400, "shapes: expected a list"),
    "many shapes": ({"image": IMAGE, "shapes": SHAPES * 6}, 400, "at most 5 entries, found 6 entries"),
    "a rectangle": ({"image": IMAGE, "shapes": [[1, 2, 3, 4]]}, 400, "shapes[0]: expected runs and a box"),
    "a type": ({"image": IMAGE, "shapes": [{"type": "cuboid", "points": []}]}, 400, "found 'cuboid'"),
    "no points": ({"image": IMAGE, "shapes": [{"type": "mask"}]}, 400, "shapes[0]: expected a list"),
    "a type of types": ({"image": IMAGE, "shapes": [{"type": ["mask"]}]}, 400, "expected points, or type and points"),
    "empty shape": ({"image": IMAGE, "shapes": [[1, 0, 0, 0, 0]]}, 400, "shapes[0]: expected a shape with at least"),
    "null shape": ({"image": IMAGE, "shapes": [None]}, 400, "shapes[0]: expected points"),
    "outside": ({"image": IMAGE, "shapes": [[0, 1, 64, 0, 64, 0]]}, 400, "inside of the image of 64x64"),
    "pickle": ({"image": IMAGE, "states": ["gASVAAAAAAAAAA=="]}, 400, "states[0]: expected a state that this service"),
    "state 1": ({"image": IMAGE, "states": [1]}, 400, "states[0]: expected a state"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests(server, name):
    request, expected, message = HOSTILE[name]
    status, answer = send(server, request)
    assert status == expected and list(answer) == ["error"] and message in answer["error"], answer
    assert len(answer["error"]) < 400


STATES = {
    "version": ({"version": 2}, 400, "expected a state"),
    "form": ({"form": "cuboid"}, 400, "form: expected one of"),
    "a path": ({"frames": ["../../../etc/passwd"]}, 400, "expected keys of 64 hexadecimal digits"),
    "unknown frame": ({"frames": ["0" * 64]}, 410, "not kept here any more"),
    "no frames": ({"frames": []}, 400, "frames: expected 1 to 2 keys"),
    "frames of another type": ({"frames": {"0": 1}}, 400, "frames: expected 1 to 2 keys"),
    "no masks": ({"masks": []}, 400, "masks: expected one mask"),
    "too many masks": ({"masks": ["0", "0"]}, 400, "masks: expected one mask"),
    "mask of another type": ({"masks": [5]}, 400, "masks[0]: expected counts of an RLE"),
    "broken mask": ({"masks": ["\x00\x01"]}, 400, "corrupt RLE"),
    "mask of another size": ({"masks": ["11"]}, 400, "add up to 2 pixels, but the image has"),
}


@pytest.mark.parametrize("name", STATES)
def test_hostile_states(server, name):
    changes, expected, message = STATES[name]
    state = begin(server)[0] | changes
    status, answer = send(server, {"image": encoded(FRAMES[1]), "states": [state]})
    assert status == expected and message in answer["error"], answer


def test_another_size(server):
    states = begin(server)
    image = encoded(np.zeros((32, 40, 3), np.uint8))
    status, answer = send(server, {"image": image, "states": states})
    assert status == 400 and "expected 64x64 pixels (height x width) as in the frames before" in answer["error"]
    _, other = send(server, {"image": image, "shapes": [[0, 4, 1, 1, 2, 2]]})
    mixed = states[0] | {"frames": states[0]["frames"] + other["states"][0]["frames"]}
    status, answer = send(server, {"image": encoded(FRAMES[2]), "states": [mixed]})
    assert status == 400 and "frames of one size" in answer["error"]


def test_hostile_connections(server):
    """Whatever is sent, the next request is served."""
    text, json_type = {"Content-Type": "text/plain"}, "Content-Type: application/json\r\n"
    assert send(server, b"{}", **text)[0] == 415
    status, answer = send(server, b" " * (LIMITS.max_bytes + 1))
    assert status == 413 and f"at most {LIMITS.max_bytes} bytes" in answer["error"]
    for headers, status in [
        ("", b"415"),
        (json_type, b"411"),
        (json_type + "Content-Length: -5\r\n", b"411"),
        (json_type + "Content-Length: 9\u0665\r\n", b"411"),
        (json_type + "Transfer-Encoding: chunked\r\n", b"411"),
        (json_type + f"Content-Length: {10**15}\r\n", b"413"),
        ("X: y\r\n" * 200, b"431"),
    ]:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
            connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
            assert connection.recv(4096).split()[1] == status, headers
    for sent in (
        b"",
        b"\x16\x03\x01\x02\x00",
        b"POST / HTTP/1.1\r\n" + json_type.encode() + b"Content-Length: 99\r\n\r\n{",
    ):
        socket.create_connection(("127.0.0.1", server.server_port), timeout=20).sendall(sent)  # and gone
    assert send(server, b"", "GET")[0] == 200


def test_no_more_connections_than_allowed(server):
    waiting = []
    try:
        while server.free._value:
            waiting.append(socket.create_connection(("127.0.0.1", server.server_port), timeout=20))
            waiting[-1].sendall(b"G")
            while server.free._value == 16 - len(waiting) + 1:
                pass
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 503")
    finally:
        for each in waiting:
            each.close()


def test_command(monkeypatch, capsys):
    """One command loads the model, says where it listens, and answers."""
    monkeypatch.setattr(tarvis_jax, "load", lambda *_, **__: make_model())
    ports, answers = [], []

    def serve_once(server):
        client = threading.Thread(target=lambda: answers.append(send(server, b"", "GET")))
        client.start()
        ports.append(server.server_port)
        server.handle_request()
        client.join()

    monkeypatch.setattr(Server, "serve_forever", serve_once)
    serve_main.main(["--checkpoint", "runs/lab", "--port", "0", "--clip_length", "4", "--max_mib", "2"])
    assert capsys.readouterr().out == f"serving runs/lab on http://127.0.0.1:{ports[0]}/\n"
    ((status, answer),) = answers
    assert status == 200 and answer["clip_length"] == 4 and answer["max_bytes"] == 2 * 2**20
    with pytest.raises(ValueError, match="--port in 0..65535"):
        serve_main.main(["--checkpoint", "runs/lab", "--port", "70000"])


def test_what_is_kept_is_bounded(monkeypatch):
    """Old pictures make room for new ones, and are forgotten after a time; their states end with a clear message."""
    tracker = make_tracker()
    size = tracker.prepare(FRAMES[0]).image.nbytes
    service = Service(tracker, Limits(cache_bytes=3 * size, max_age=100))
    states = [
        service.answer(json.dumps({"image": encoded(frame), "shapes": SHAPES}).encode())["states"]
        for frame in FRAMES[:5]
    ]
    request = {"image": encoded(FRAMES[5])}
    with pytest.raises(service_module.Gone, match="begin tracking from the shape again"):
        service.answer(json.dumps(request | {"states": states[1]}).encode())
    assert service.answer(json.dumps(request | {"states": states[3]}).encode())["shapes"] != [None]
    assert len(service._store) == 3 and service._store._bytes == 3 * size
    now = service_module.time.monotonic()
    monkeypatch.setattr(service_module.time, "monotonic", lambda: now + 101)
    service.answer(json.dumps({"image": encoded(FRAMES[6]), "shapes": SHAPES}).encode())
    assert len(service._store) == 1
