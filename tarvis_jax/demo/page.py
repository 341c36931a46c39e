"""The page of the demo: Gradio's components around one `Workbench` per visitor. The only importer of Gradio."""

import base64
import contextlib
import dataclasses
import html
import os
import pathlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
from absl import logging

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is sent to anyone; read when Gradio is imported
import gradio as gr  # noqa: E402

from tarvis_jax.api import Model  # noqa: E402
from tarvis_jax.demo import downloads  # noqa: E402
from tarvis_jax.demo.samples import warm_up  # noqa: E402
from tarvis_jax.demo.uploads import Clip, Limits, take_upload  # noqa: E402
from tarvis_jax.demo.visits import VisitLimits, Visits  # noqa: E402
from tarvis_jax.demo.workbench import Progress, TrackSummary, Workbench  # noqa: E402
from tarvis_jax.visualize.overlay import color, stuff_color  # noqa: E402

TASK_LABELS = {
    "pet": "PET: follow points",
    "vos": "VOS: follow masks",
    "vis": "VIS: find objects",
    "vps": "VPS: objects and background",
}
_SECONDS_BETWEEN_PICTURES = 0.1  # of a run
_FILES = pathlib.Path(__file__).parent
_FONT = ["system-ui", "sans-serif"]  # of the visitor's own machine


@dataclasses.dataclass
class _Visitor:
    """What the server knows of one open page.

    Attributes:
      frame: the one that is shown.
      follows: whether the newest frame of a run is shown, until the visitor moves the slider.
      target: the one that clicks and strokes belong to.
      sample: the one that is shown, None where the clip is the visitor's own.
    """

    bench: Workbench
    frame: int = 0
    follows: bool = False
    target: int | None = None
    sample: str | None = None


class Page:
    """The page, and the visitors that have it open.

    A visitor is known by the key that Gradio draws for each open page (`gr.Request.session_hash`); everything of theirs
    is reached through it alone, and nothing is kept in the browser.
    """

    def __init__(
        self,
        model: Model,
        samples: Mapping[str, Sequence[pathlib.Path]],
        limits: Limits | None = None,
        visit_limits: VisitLimits | None = None,
        root: pathlib.Path | None = None,
    ):
        """Args:
        model: all visitors share it.
        samples: name -> what `take_upload` takes.
        limits: of uploads.
        visit_limits: of all visitors together.
        root: where the folder of temporary files is made, see `Visits`.
        """
        self._model, self._samples, self._limits = model, dict(samples), limits or Limits()
        self._visits = Visits(root, visit_limits, on_close=self._gone)
        os.environ["GRADIO_TEMP_DIR"] = str(self._visits.path / "gradio")  # uploads that were not taken, downloads
        self._visitors: dict[str, _Visitor] = {}
        self._guard = threading.Lock()
        self._empty = Workbench(model, self._visits.path)  # says what a new page shows
        self._blocks = self._build()

    def __enter__(self) -> "Page":
        self._visits.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the server and all runs, and removes all temporary files."""
        self._blocks.close(verbose=False)
        self._visits.__exit__(*exception)

    def launch(self, host: str, port: int) -> str:
        """Serves the page in threads; returns its address.

        Raises:
          OSError: the port is taken.
        """
        self._blocks.queue(max_size=200, default_concurrency_limit=8)
        _, url, _ = self._blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            inbrowser=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=self._limits.max_bytes,
            theme=_theme(),
            css=(_FILES / "page.css").read_text(),
            js=(_FILES / "page.js").read_text(),
        )
        return url

    def warm_up(self) -> None:
        """Has compiled what the first visitors will need: a visit of the server's own, on the first sample."""
        key = secrets.token_hex(16)
        try:
            visitor = self._visitor(key)
            warm_up(visitor.bench, self._take(visitor, next(iter(self._samples.values()))))
        except ValueError as error:
            logging.warning("nothing is compiled ahead: %s", error)
        finally:
            self._visits.close(key)

    # The page's parts.

    def _build(self) -> gr.Blocks:
        bench = self._empty
        with gr.Blocks(title="TarViS", analytics_enabled=False, delete_cache=(60, 600), fill_width=True) as blocks:
            gr.HTML("<h1>TarViS: segment any targets in a video</h1>", padding=False)
            with gr.Row():
                samples = gr.Dropdown(
                    list(self._samples),
                    value=None,
                    label="Sample clip",
                    elem_id="samples",
                    filterable=False,
                    min_width=240,
                )
                task = gr.Dropdown(
                    [(TASK_LABELS[name], name) for name in TASK_LABELS if bench.datasets(name)],
                    value=bench.task,
                    label="Task",
                    elem_id="task",
                    filterable=False,
                    min_width=240,
                )
                dataset = gr.Dropdown(
                    bench.datasets(bench.task),
                    value=bench.dataset,
                    label="Dataset",
                    elem_id="dataset",
                    filterable=False,
                )
            message = gr.HTML(
                "", elem_id="message", js_on_load="element.setAttribute('role', 'status');", padding=False
            )
            with gr.Row():
                with gr.Column(scale=3, min_width=320):
                    canvas = gr.HTML(
                        None,
                        html_template=(_FILES / "canvas.html").read_text(),
                        js_on_load=(_FILES / "canvas.js").read_text(),
                        elem_id="canvas",
                        padding=False,
                        apply_default_css=False,
                    )
                    frame = gr.Slider(0, 1, value=0, step=1, label="Frame", elem_id="frame", buttons=[])
                    with gr.Row():
                        run = gr.Button("Run", variant="primary", elem_id="run", min_width=120)
                        stop = gr.Button("Stop", elem_id="stop", min_width=120)
                    progress = gr.HTML("", elem_id="progress", padding=False)
                with gr.Column(scale=2, min_width=320):
                    with gr.Column(elem_id="targets") as targets:
                        gr.Radio(  # `canvas.js` reads it, and the brush
                            [("Point", "point"), ("Paint", "paint"), ("Erase", "erase")],
                            value="point",
                            label="Tool",
                            elem_id="tool",
                            interactive=True,
                        )
                        brush = gr.Slider(
                            1, 100, value=10, step=1, label="Brush width, pixels", elem_id="brush", interactive=True
                        )
                        target = gr.Dropdown([], label="Target", elem_id="target", filterable=False)
                        with gr.Row():
                            add = gr.Button("Add target", size="md", elem_id="add-target", min_width=90)
                            remove = gr.Button("Remove target", size="md", elem_id="remove-target", min_width=90)
                            clear = gr.Button("Clear this frame", size="md", elem_id="clear-target", min_width=90)
                        with gr.Row():
                            y = gr.Number(0, label="Point y", precision=1, elem_id="point-y", min_width=70)
                            x = gr.Number(0, label="Point x", precision=1, elem_id="point-x", min_width=70)
                            give = gr.Button("Give this point", size="md", elem_id="give-point", min_width=90)
                    tracks = gr.HTML("", elem_id="tracks", padding=False)
                    upload = gr.File(
                        label="Your own clip: a video, images, or a zip of images",
                        file_count="multiple",
                        elem_id="clip-upload",
                        height=160,
                    )
                    kind = gr.Dropdown(
                        [(label, name) for name, label in downloads.FORMATS.items()],
                        value=next(iter(downloads.FORMATS)),
                        label="Download as",
                        elem_id="download-kind",
                        filterable=False,
                    )
                    download = gr.Button("Download", elem_id="download")
                    file = gr.File(visible="hidden", elem_id="download-file")

        # What handlers may change, see `_view`.
        parts = {
            "message": message,
            "canvas": canvas,
            "frame": frame,
            "progress": progress,
            "tracks": tracks,
            "run": run,
            "stop": stop,
            "task": task,
            "dataset": dataset,
            "targets": targets,
            "brush": brush,
            "target": target,
            "samples": samples,
            "upload": upload,
            "file": file,
        }
        self._parts = tuple(parts)
        with blocks:

            def on(event: Callable, handler: Callable, inputs: Sequence = (), **options: Any) -> Any:
                options = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 8} | options
                return event(handler, list(inputs), list(parts.values()), **options)

            last, answer = {"trigger_mode": "always_last"}, self._answer
            on(blocks.load, answer(self._open))
            on(samples.input, answer(self._choose_sample), [samples], **last)
            on(upload.upload, answer(self._upload), [upload])
            on(task.input, answer(self._choose_task), [task], **last)
            on(dataset.input, answer(self._choose_dataset), [dataset], **last)
            on(frame.input, answer(self._show), [frame], **last)
            on(canvas.input, self._answer_to_drawing, trigger_mode="multiple", concurrency_limit=1)
            on(target.input, answer(self._choose_target), [target], **last)
            on(add.click, answer(self._add_target))
            on(remove.click, answer(self._remove_target))
            on(clear.click, answer(self._clear_target))
            on(give.click, answer(self._give_point), [y, x])
            on(run.click, self._run, concurrency_limit=self._visits.limits.max_visitors)
            on(stop.click, answer(self._stop))
            written = on(download.click, answer(self._download), [kind])
            # The browser fetches the file as if its link had been clicked.
            written.then(None, [file], None, js=(_FILES / "download.js").read_text())
            blocks.unload(self._unload)
        return blocks

    # Visitors.

    def _visitor(self, key: str) -> _Visitor:
        """The visitor of an open page; a new one where the server does not know the page, or does not any more."""
        folder = self._visits.folder(key)
        with self._guard:
            return self._visitors.setdefault(key, _Visitor(Workbench(self._model, folder)))

    def _unload(self, request: gr.Request) -> None:
        self._visits.close(request.session_hash)

    def _gone(self, key: str) -> None:
        """The visitor's folder was removed."""
        with self._guard:
            visitor = self._visitors.pop(key, None)
        if visitor is not None:
            visitor.bench.close()

    # Answers: what happens, and what is shown then.

    def _answer(self, handler: Callable[..., dict[str, Any] | None]) -> Callable[..., list]:
        """An event's function, which calls `handler(visitor, *inputs)` and shows the page as it is then.

        `handler` returns what it knows better than `_view`: name of a part -> its update.
        """

        def answer(request: gr.Request, *inputs: Any) -> list:
            return self._answered(request, handler, *inputs)

        return answer

    def _answer_to_drawing(self, request: gr.Request, event: gr.EventData) -> list:
        return self._answered(request, self._draw, event._data)

    def _answered(self, request: gr.Request, handler: Callable, *inputs: Any) -> list:
        """A mistake of the visitor's and an error of ours both end as a message, and the server goes on."""
        visitor, message = None, ""
        changes: dict[str, Any] = {}
        try:
            visitor = self._visitor(request.session_hash)
            changes = handler(visitor, *inputs) or {}
        except Exception as error:
            message = _words(error)
        return self._updates(visitor, {"message": _paragraph(message)} | changes)

    def _updates(self, visitor: _Visitor | None, changes: Mapping[str, Any]) -> list:
        """All parts of the page, in order: those of `changes`, and the others as the visitor's work is."""
        try:
            view = {} if visitor is None else self._view(visitor)
        except Exception as error:
            view = {"message": _paragraph(_words(error))}
        view = view | changes
        return [view.get(name, gr.skip()) for name in self._parts]

    def _view(self, visitor: _Visitor) -> dict[str, Any]:
        """The page as it is to be, but for what seldom changes."""
        bench, progress = visitor.bench, visitor.bench.progress()
        if visitor.follows and progress.done:
            visitor.frame = progress.done - 1
        ids = bench.target_ids
        if visitor.target not in ids:
            visitor.target = ids[-1] if ids else None
        is_begun = 0 < progress.next_frame < progress.total
        view = {
            "canvas": self._picture(visitor),
            "progress": _progress_text(progress),
            "tracks": _table(bench.tracks(), bench.stuff()),
            "run": gr.Button("Continue" if is_begun else "Run", interactive=not progress.is_running),
            "stop": gr.Button(interactive=progress.is_running),
            "target": gr.Dropdown([(f"Target {id}", id) for id in ids], value=visitor.target),
            "targets": gr.Column(visible=bench.takes_targets),
        }
        if visitor.follows:
            view["frame"] = visitor.frame
        if progress.error:
            view["message"] = _paragraph(progress.error)
        return view

    def _picture(self, visitor: _Visitor) -> dict[str, Any] | None:
        """What `canvas.js` shows: the frame as a JPEG in a data URL, its number and its size in pixels."""
        bench = visitor.bench
        if bench.clip is None:
            return None
        image = bench.draw(visitor.frame)
        _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
        height, width = bench.clip.size
        return {
            "image": "data:image/jpeg;base64," + base64.b64encode(encoded).decode(),
            "frame": visitor.frame,
            "height": height,
            "width": width,
            "color": f"rgb{color(visitor.target or 1)}",
            "draws": bench.takes_targets,
        }

    # What the visitor does.

    def _open(self, visitor: _Visitor) -> dict[str, Any]:
        """The first sample, so that there is something to click on."""
        if visitor.bench.clip is None and self._samples:
            return self._choose_sample(visitor, next(iter(self._samples)))
        return {}

    # Gradio's lists send their value each time that the tabulator leaves them: the same value again changes nothing.

    def _choose_sample(self, visitor: _Visitor, name: str | None) -> dict[str, Any]:
        if name == visitor.sample:
            return {}
        if name not in self._samples:
            raise ValueError(f"There is no sample {name!r:.80}.")
        clip = self._take(visitor, self._samples[name])
        update = self._load(visitor, dataclasses.replace(clip, name=name)) | {"samples": name}
        visitor.sample = name
        return update

    def _upload(self, visitor: _Visitor, paths: list[str] | None) -> dict[str, Any]:
        try:
            clip = self._take(visitor, [pathlib.Path(path) for path in paths or ()])
        except ValueError as error:  # the field is emptied: the next files would be added to these
            return {"message": _paragraph(str(error)), "upload": None}
        finally:
            for path in paths or ():
                pathlib.Path(path).unlink(missing_ok=True)
        return self._load(visitor, clip) | {"samples": None}

    def _take(self, visitor: _Visitor, paths: Sequence[pathlib.Path]) -> Clip:
        space = min(self._limits.max_frame_bytes, self._visits.free_bytes())
        return take_upload(paths, visitor.bench.folder, dataclasses.replace(self._limits, max_frame_bytes=space))

    def _load(self, visitor: _Visitor, clip: Clip) -> dict[str, Any]:
        """Shows another clip; the frames of the one before are removed."""
        before = visitor.bench.clip
        visitor.bench.load(clip)
        if before is not None:
            shutil.rmtree(before.folder, ignore_errors=True)
        visitor.sample, visitor.frame, visitor.follows, visitor.target = None, 0, False, None
        text = f"{clip.name}: {clip.num_frames} frames of {clip.size[1]} x {clip.size[0]} pixels."
        side = min(clip.size)
        return {
            "message": _paragraph(text),
            "frame": gr.Slider(maximum=max(1, clip.num_frames - 1), value=0, interactive=clip.num_frames > 1),
            "brush": gr.Slider(maximum=max(2, side // 2), value=max(1, side // 12), interactive=True),
            "upload": None,
        }

    def _choose_task(self, visitor: _Visitor, task: str) -> dict[str, Any]:
        if task == visitor.bench.task:
            return {}
        visitor.bench.choose(task)
        return {"dataset": gr.Dropdown(visitor.bench.datasets(task), value=visitor.bench.dataset)}

    def _choose_dataset(self, visitor: _Visitor, dataset: str) -> None:
        visitor.bench.choose(visitor.bench.task, dataset)

    def _show(self, visitor: _Visitor, frame: float) -> dict[str, Any]:
        """The slider has moved; it is not moved back to where the server has just learned that it is."""
        total = visitor.bench.progress().total
        visitor.frame, visitor.follows = min(max(0, int(frame)), max(0, total - 1)), False
        return {"frame": gr.skip()}

    def _draw(self, visitor: _Visitor, event: Mapping[str, Any]) -> dict[str, Any]:
        """A click or a stroke on the picture."""
        points, frame = event.get("points"), event.get("frame")
        if not isinstance(points, list) or not points or not isinstance(frame, int):
            raise ValueError("The browser sent a drawing that cannot be read; reload the page.")
        visitor.frame, visitor.follows = frame, False
        tool = event.get("tool")
        with self._on_target(visitor) as (bench, target):
            if tool == "point":
                bench.point(frame, target, points[0])
            else:
                bench.stroke(frame, target, points, event.get("width", 1), erase=tool == "erase")

    def _give_point(self, visitor: _Visitor, y: float | None, x: float | None) -> None:
        if y is None or x is None:
            raise ValueError("Type both y and x of the point.")
        with self._on_target(visitor) as (bench, target):
            bench.point(visitor.frame, target, (y, x))

    @contextlib.contextmanager
    def _on_target(self, visitor: _Visitor) -> Iterator[tuple[Workbench, int]]:
        """The target to give; a first one is made where there is none, and taken back if the block fails."""
        bench = visitor.bench
        is_new = visitor.target is None
        target = bench.add_target() if is_new else visitor.target
        try:
            yield bench, target
        except ValueError:
            if is_new:
                bench.remove_target(target)
            raise
        visitor.target = target

    def _choose_target(self, visitor: _Visitor, target: int | None) -> dict[str, Any]:
        visitor.target = target
        return {"target": gr.skip()}

    def _add_target(self, visitor: _Visitor) -> None:
        visitor.target = visitor.bench.add_target()

    def _remove_target(self, visitor: _Visitor) -> None:
        visitor.bench.remove_target(visitor.target)

    def _clear_target(self, visitor: _Visitor) -> None:
        visitor.bench.clear(visitor.frame, visitor.target)

    def _stop(self, visitor: _Visitor) -> None:
        visitor.bench.stop()

    def _download(self, visitor: _Visitor, kind: str) -> dict[str, Any]:
        bench = visitor.bench
        result = bench.results()
        written = downloads.write(kind, result, bench.clip, bench.class_names, bench.options, bench.folder)
        return {"file": str(written), "message": _paragraph(f"{written.name}: {result.num_frames} frames.")}

    def _run(self, request: gr.Request) -> Iterator[list]:
        """Starts a run and shows its frames as they come, until it ends."""
        visitor, message = None, ""
        try:
            visitor = self._visitor(request.session_hash)
            visitor.bench.run()
            visitor.follows = True
        except Exception as error:
            message = _words(error)
        yield self._updates(visitor, {"message": _paragraph(message)})
        revision = -1
        while not message and visitor.bench.progress().is_running:
            revision = visitor.bench.wait(revision)
            self._visits.use(request.session_hash)  # who watches is not idle
            yield self._updates(visitor, {"target": gr.skip(), "targets": gr.skip()})
            time.sleep(_SECONDS_BETWEEN_PICTURES)
        if not message:
            yield self._updates(visitor, {})
            visitor.follows = False


def _theme() -> gr.themes.Base:
    """Gradio's, in colors whose texts have a contrast of at least 4.5 (WCAG 2, level AA)."""
    theme = gr.themes.Default(primary_hue="blue", font=_FONT, font_mono=["ui-monospace", "monospace"])
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
    )


def _words(error: Exception) -> str:
    """What to tell the visitor."""
    if isinstance(error, ValueError):
        return str(error)
    logging.exception("the demo failed to answer", exc_info=error)
    return "The server has met an error of its own; its log has the traceback. The page can be used on."


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _progress_text(progress: Progress) -> str:
    if not progress.total:
        return _paragraph("No clip yet.")
    text = f"{progress.done} of {progress.total} frames"
    if progress.is_running:
        text += " so far" if progress.done else ": the network begins (its first clip of a size takes longest)"
    elif progress.done < progress.total and progress.done:
        text += ", stopped"
    elif progress.done:
        text += ", done"
    if progress.frames_per_second is not None:
        text += f", {progress.frames_per_second:.1f} frames/s"
    if not progress.is_running and progress.next_frame < progress.done:
        text += f"; what has changed is computed anew from frame {progress.next_frame} on"
    return f'<progress aria-hidden="true" max="{progress.total}" value="{progress.done}"></progress>' + _paragraph(text)


def _table(tracks: Sequence[TrackSummary], stuff: Mapping[int, str]) -> str:
    """Tracks and stuff classes as a table; its first column has the color that the picture has."""
    if not tracks and not stuff:
        return _paragraph("Targets and tracks are listed here.")
    rows = []
    for each in tracks:
        frames = "not yet" if each.frames is None else "{} to {}".format(*each.frames)
        if each.given:
            frames += "; given in " + ", ".join(map(str, each.given))
        score = "" if each.score is None else f"{each.score:.2f}"
        rows.append((color(each.id), str(each.id), each.class_name or "target", score, frames))
    rows += [(stuff_color(class_id), "", name, "", "background") for class_id, name in stuff.items()]
    body = ""
    for rgb, *texts in rows:
        first, *others = map(html.escape, texts)
        swatch = f'<span class="swatch" style="background: rgb{rgb}"></span>'
        body += f"<tr><td>{swatch}{first}</td>" + "".join(f"<td>{text}</td>" for text in others) + "</tr>"
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Id", "Class", "Score", "Frames"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
