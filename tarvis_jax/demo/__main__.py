"""The demo: a page in the browser that segments clips, follows what one points at, and takes corrections.

python -m tarvis_jax.demo [--checkpoint PATH] [--host 127.0.0.1] [--port 7860] [--samples DIR]
"""

import pathlib
import threading
import time

from tarvis_jax import command_line

_START = time.monotonic()
RUNS = pathlib.Path("runs")  # where the quickstart's command writes
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(arguments: list[str]) -> None:
    parser = command_line.Parser(
        prog="python -m tarvis_jax.demo",
        description="Serves a page that segments clips in the browser (docs/demo.md).",
    )
    parser.add_argument("--checkpoint", help="anything that tarvis_jax.load takes; default: the newest quickstart run")
    parser.add_argument("--host", default=LOOPBACK[0], help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--samples", type=pathlib.Path, help="folder of clips to offer: videos, and folders of images")
    args = parser.parse_args(arguments)
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError:
        raise ValueError('the demo needs Gradio, which is not installed: pip install ".[demo]"') from None
    from tarvis_jax import api, compiled
    from tarvis_jax.demo import samples
    from tarvis_jax.demo.page import Page
    from tarvis_jax.demo.turns import PredictorInTurns

    checkpoint = args.checkpoint or str(samples.newest_quickstart(RUNS))
    clips = samples.find(args.samples, pathlib.Path(checkpoint))
    if args.host not in LOOPBACK:
        print(
            f"warning: with --host {args.host}, everybody who can reach this machine can use the page, upload clips "
            "and keep its device busy. There is no password and no encryption. docs/demo.md says how to put a server "
            "with both in front of it.",
            flush=True,
        )
    compiled.keep_between_runs()
    model = api.load(checkpoint)
    model.predictor = PredictorInTurns(model.predictor)
    with Page(model, clips) as page:
        url = page.launch(args.host, args.port)
        print(f"{url} is ready after {time.monotonic() - _START:.1f} s (Ctrl-C ends it)", flush=True)
        if clips:
            threading.Thread(target=page.warm_up, daemon=True).start()
        threading.Event().wait()


if __name__ == "__main__":
    command_line.run_and_exit(main)
