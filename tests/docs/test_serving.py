"""The requests of docs/serving.md, to a server whose network follows colors."""

import json
import runpy
import threading
import types

import pytest

from tarvis_jax.serve.__main__ import Server
from tarvis_jax.serve.service import Service
from tests.docs.snippets import run_page
from tests.serve.color_tracker import is_same, make_tracker

pytest.importorskip("cvat_sdk", reason="needs cvat-sdk (tests/requirements.txt)")


def test_serving_page(tmp_path):
    with Server(("127.0.0.1", 0), Service(make_tracker())) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            here = f"127.0.0.1:{server.server_port}"
            substitutions = {'127.0.0.1:8070/", body': f'{here}/", body', "host.docker.internal:8070": here}
            names = run_page("docs/serving.md", tmp_path, substitutions, examples=("sh",))
            moved = names["second"][..., 0] > 0
            assert is_same(names["found"], moved)
            handler = runpy.run_path(str(tmp_path / "serverless/tarvis_jax/main.py"))["handler"]
            context = types.SimpleNamespace(Response=types.SimpleNamespace)
            for body, status in (({"image": "", "shapes": []}, 400), ({"image": None}, 400)):
                answer = handler(context, types.SimpleNamespace(body=body))
                assert answer.status_code == status and json.loads(answer.body)["error"].startswith("image")
        finally:
            server.shutdown()
            thread.join()
