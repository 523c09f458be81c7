"""A web page for both directions of SemFlow."""

import html
import ipaddress
import math
import os
import socket
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Tuple

import numpy as np
from torch import nn

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.flow import SOLVERS
from mmseg_semflow.synthesis.pictures import (
    entropy_picture,
    has_colours,
    picture_size,
    read_rgb,
)

from .markup import (
    FILES,
    brush_colours,
    check_size,
    from_url,
    legend,
    overlay,
    paint,
    painter,
    read_paint,
    strip,
    to_url,
)

# Of a picture, before it is decoded; of what is sent at once; of those who wait.
MAX_SIDE = 4096
MAX_BYTES = 32 * 2**20
MAX_WAITING = 20


@contextmanager
def _errors_shown() -> Iterator[None]:
    """Show ValueErrors on the page."""
    try:
        yield
    except ValueError as error:
        import gradio
        raise gradio.Error(
            html.escape(str(error)), print_exception=False) from error


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Name in errors not the path of a file, but the file as the user knows it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace(path, Path(path).name)) from error


def _room(with_path: bool) -> str:
    """Make room for a trajectory and its progress."""
    return '<div class="strip"></div>' if with_path else ''


class _TimeLimit:
    """Stop a network that is called in this context after some seconds.

    Whatever the solver: between two of its calls of the network. An exported file is
    called once for a picture or a window.

    Args:
        network (nn.Module): The network.
        seconds (float): How long it may take.
    """

    def __init__(self, network: nn.Module, seconds: float) -> None:
        self.seconds = seconds
        self._end = math.inf
        network.register_forward_pre_hook(self._check)

    def __enter__(self) -> None:
        self._end = time.monotonic() + self.seconds

    def __exit__(self, *_: Any) -> None:
        self._end = math.inf

    def _check(self, *_: Any) -> None:
        if time.monotonic() > self._end:
            raise ValueError(
                f'this took longer than the {self.seconds:g} seconds that one may '
                'have: take fewer steps, samples or pixels')


class _BoundedBody:
    """ASGI middleware: requests of more than so many bytes are answered by 413.

    Args:
        app (Callable): What answers all others.
        max_bytes (int): How many.
    """

    def __init__(self, app: Callable, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        declared = dict(scope['headers']).get(b'content-length', b'0')
        if not declared.isdigit() or int(declared) > self.max_bytes:
            text = f'at most {self.max_bytes:,} bytes can be sent'.encode()
            await send(dict(
                type='http.response.start', status=413,
                headers=[(b'content-type', b'text/plain'), (b'connection', b'close')]))
            await send(dict(type='http.response.body', body=text))
            return
        left = self.max_bytes

        async def counting() -> dict:
            nonlocal left
            message = await receive()
            left -= len(message.get('body', b''))
            # Of what came in pieces nobody had told the size.
            return message if left >= 0 else dict(type='http.disconnect')

        await self.app(scope, counting, send)


class _Actions:
    """What the page does with the model."""

    def __init__(self, inferencer: SemFlowInferencer, seconds: float) -> None:
        self.inferencer = inferencer
        exported = inferencer.exported
        self.limited = _TimeLimit(
            inferencer.semflow.network if exported is None else exported.graph, seconds)
        # Its errors name it, but where it lies is none of the visitors' business.
        self.file = '' if exported is None else str(exported.path)
        self.classes = inferencer.classes
        self.colours = brush_colours(inferencer.palette)

    @_errors_shown()
    def read_image(self, upload: Any) -> Optional[np.ndarray]:
        if upload is None:
            return None
        with _named(upload.path):
            check_size(upload.path, picture_size(upload.path), MAX_SIDE)
            return read_rgb(upload.path)

    def new_image(self, image: Optional[np.ndarray], *sides: int) -> tuple:
        return None, '', '', '', *(
            sides if image is None else image.shape[:len(sides)])

    @_errors_shown()
    def segment(self, image: Optional[np.ndarray], solver: str,
                num_steps: int, with_path: bool) -> tuple:
        if image is None:
            raise ValueError('there is no image to segment')
        entropy = None
        with _named(self.file), self.limited:
            found = self.inferencer.segment(
                image, solver=solver, num_steps=num_steps,
                return_datasamples=self.inferencer.exported is None)
        labels = found
        if self.inferencer.exported is None:
            labels = found.pred_sem_seg.data[0].cpu().numpy()
            entropy = entropy_picture(found.seg_logits.data)
        return (labels, overlay(image, labels, self.colours, entropy),
                legend(labels, self.classes, self.colours), _room(with_path))

    @_errors_shown()
    def image_path(self, image: np.ndarray, solver: str, num_steps: int,
                   with_path: bool) -> str:
        if not with_path:
            return ''
        with _named(self.file), self.limited:
            pictures = self.inferencer.trajectory(
                image=image, solver=solver, num_steps=num_steps)
        return self._strip(pictures, 0.)

    @_errors_shown()
    def synthesize(self, canvas: str, solver: str, num_steps: int, seed: int,
                   with_path: bool, num_samples: int) -> tuple:
        labels = read_paint(from_url(canvas, MAX_SIDE), self.colours,
                            self.inferencer.semflow.codec.ignore_index)
        with self.limited:
            images = self.inferencer.synthesize(
                labels, num_samples=num_samples, solver=solver,
                num_steps=num_steps, seed=seed)
        samples = [(image, f'sample {i}') for i, image in enumerate(images)]
        return labels, samples, _room(with_path)

    @_errors_shown()
    def mask_path(self, labels: np.ndarray, solver: str, num_steps: int,
                  seed: int, with_path: bool) -> str:
        if not with_path:
            return ''
        with self.limited:
            pictures = self.inferencer.trajectory(
                mask=labels, solver=solver, num_steps=num_steps, seed=seed)
        return self._strip(pictures, 1.)

    def _strip(self, pictures: np.ndarray, start: float) -> str:
        times = self.inferencer.semflow.process.times(
            len(pictures) - 1, start, 1 - start)
        return strip(pictures, times.tolist())

    @_errors_shown()
    def empty_mask(self, height: Optional[int], width: Optional[int]) -> str:
        if not all(1 <= (side or 0) <= MAX_SIDE for side in (height, width)):
            raise ValueError('height and width of a mask must be in '
                             f'[1, {MAX_SIDE}], but got {height} and {width}')
        return self._to_canvas(np.zeros((height, width), np.int64))

    @_errors_shown()
    def segmented_mask(self, labels: Optional[np.ndarray]) -> str:
        if labels is None:
            raise ValueError('no image has been segmented yet')
        return self._to_canvas(labels)

    @_errors_shown()
    def uploaded_mask(self, path: str) -> str:
        with _named(path):
            check_size(path, picture_size(path), MAX_SIDE)
            palette = self.inferencer.palette if has_colours(path) else None
            labels = self.inferencer.read(path, palette)
        return self._to_canvas(labels.numpy())

    def _to_canvas(self, labels: np.ndarray) -> str:
        return to_url(paint(labels, self.colours))


def build_app(inferencer: SemFlowInferencer,
              login: Optional[Tuple[str, str]] = None,
              root_path: Optional[str] = None,
              seconds: float = 300.) -> Any:
    """Build the page.

    Args:
        inferencer (SemFlowInferencer): The model, with ``channel_order='rgb'``. Of
            an exported file there is neither synthesis nor a trajectory.
        login (Tuple[str, str], optional): User and password, without which nothing
            is shown. Defaults to None, for everybody.
        root_path (str, optional): The path, such as ``/semflow``, that a proxy
            takes off what it passes on. Defaults to None.
        seconds (float): How long the model may work at one request. Defaults to 300.

    Returns:
        fastapi.FastAPI: The page, for any ASGI server.

    Raises:
        ImportError: If gradio is not installed.
        ValueError: If the order of the channels is another.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    try:
        import fastapi
        import gradio as gr
    except ImportError as error:
        raise ImportError("the web page needs gradio: "
                          "pip install 'mmseg_semflow[demo]'") from error
    if inferencer.channel_order != 'rgb':
        raise ValueError("channel_order must be 'rgb', but got "
                         f'{inferencer.channel_order!r}')
    theme = gr.themes.Default(
        primary_hue='blue', neutral_hue='slate', spacing_size='sm',
        radius_size='sm', text_size='sm',
        # The theme's own would come from the web.
        font=('Inter', 'Helvetica Neue', 'Arial', 'sans-serif'),
        font_mono=('Consolas', 'Menlo', 'monospace'),
    ).set(
        body_text_color_subdued='*neutral_500',
        button_primary_background_fill='*primary_600',
        button_primary_background_fill_hover='*primary_700',
        button_primary_text_color='white',
        button_secondary_background_fill='*neutral_100',
        button_secondary_background_fill_hover='*neutral_200',
        button_small_padding='7px', button_small_radius='6px',
        button_small_text_size='13px', button_small_text_weight='400')
    page = _build_page(inferencer, seconds)
    page.queue(max_size=MAX_WAITING)
    # gradio lets visitors name only files that they uploaded, but asks on
    # pages alone that it launched itself.
    page.has_launched = True
    # Not page.launch, which calls itself through the proxy, if there is one.
    app = fastapi.FastAPI()
    app.add_middleware(_BoundedBody, max_bytes=MAX_BYTES)
    return gr.mount_gradio_app(
        app, page, path='/', theme=theme, auth=login, root_path=root_path,
        max_file_size=MAX_BYTES,
        # Of errors that are none of the visitor's: they name paths of the server.
        show_error=False,
        css_paths=FILES / 'page.css',
        head=f'<script>{(FILES / "page.js").read_text()}</script>',
        footer_links=[], run_history=False)


def _build_page(inferencer: SemFlowInferencer, seconds: float) -> Any:
    import gradio as gr
    actions = _Actions(inferencer, seconds)
    exported = inferencer.exported
    # An exported file has one solver and one number of steps.
    free = exported is None
    if free:
        cfg = inferencer.model.cfg
        name = html.escape(Path(cfg.filename or '').name)
        test_cfg = dict(
            solver=inferencer.semflow.process.default_solver, num_steps=25)
        test_cfg.update(getattr(inferencer.model, 'test_cfg', None) or {})
        synthesizer = inferencer.synthesizer()
        size = (synthesizer.size or cfg.get('crop_size')
                or cfg.get('generate', {}).get('size') or (512, 512))
    else:
        name = html.escape(exported.path.name)
        test_cfg = dict(solver='euler', num_steps=exported.num_steps)

    def controls(solver: str, num_steps: int) -> list:
        # A process that does not integrate a velocity has solvers of its own.
        solvers = list(SOLVERS) if solver in SOLVERS else [solver]
        return [gr.Dropdown(solvers, value=solver, label='Solver', min_width=100,
                            filterable=False, interactive=free),
                slider(1, max(100, num_steps), num_steps, 1, 'Steps',
                       interactive=free)]

    def slider(low: float, high: float, value: float, step: float,
               label: str, **kwargs) -> gr.Slider:
        return gr.Slider(low, high, value, step=step, label=label,
                         min_width=140, buttons=[], **kwargs)

    def show(value: str = '', **kwargs) -> gr.HTML:
        return gr.HTML(value, apply_default_css=False, **kwargs)

    def heading(title: str, subtitle: str) -> None:
        show(f'<h2>{title} <span>{subtitle}</span></h2>', elem_classes='heading')

    with gr.Blocks(title='SemFlow', analytics_enabled=False,
                   delete_cache=(3600, 86400)) as page:
        show(
            '<h1>SemFlow</h1><p>One ordinary differential equation, both ways: '
            'from image (t&nbsp;=&nbsp;0) to mask (t&nbsp;=&nbsp;1), and back. '
            f'<code>{name}</code>, {len(inferencer.classes)} classes.</p>',
            elem_classes='title')

        heading('Image to mask', 'segmentation')
        labels = gr.State()
        with gr.Row():
            image = gr.Image(
                label='Image', sources=['upload'], buttons=['fullscreen'],
                height=320, min_width=300, elem_id='image')
            # Its own errors name functions and paths of the server.
            image.preprocess = actions.read_image
            overlaid = show(label='Segmentation', show_label=True,
                            container=True, elem_id='overlay')
        classes_found = show(elem_id='legend')
        with gr.Row(elem_classes='bar'):
            image_how = controls(test_cfg['solver'], test_cfg['num_steps'])
            opacity = slider(0, 1, 0.6, 0.05, 'Opacity')
            unsure = gr.Checkbox(False, label='Uncertainty', visible=free,
                                 min_width=100)
            with_image_path = gr.Checkbox(free, label='Trajectory', visible=free,
                                          min_width=100)
            segment = gr.Button('Segment', variant='primary', min_width=120)
        image_path = show(elem_id='image-path')

        # One thing at a time on the one model.
        on_model = dict(concurrency_id='model', concurrency_limit=1,
                        api_visibility='private')
        quick = dict(show_progress='hidden', api_visibility='private')
        sides = []
        if free:
            heading('Mask to image', 'synthesis')
            small = dict(size='sm', min_width=80)
            canvas, drawn = gr.Textbox(visible=False), gr.State()
            with gr.Row():
                with gr.Column():
                    with gr.Row(elem_classes='bar'):
                        sides = [
                            gr.Number(side, label=name, precision=0, min_width=60)
                            for name, side in zip(('Height', 'Width'), size,
                                                  strict=True)]
                        with gr.Column(scale=4, min_width=300), gr.Row():
                            empty = gr.Button('Empty mask', **small)
                            segmented = gr.Button('From segmentation', **small)
                            uploaded = gr.UploadButton(
                                'Upload mask', **small,
                                file_types=['.png', '.bmp', '.tif', '.tiff'])
                    show(painter(inferencer.classes, actions.colours))
                with gr.Column():
                    with gr.Row(elem_classes='bar'):
                        mask_how = controls(synthesizer.solver, synthesizer.num_steps)
                        seed = gr.Number(synthesizer.seed, label='Seed', precision=0,
                                         min_width=80)
                    with gr.Row(elem_classes='bar'):
                        num_samples = slider(1, 16, 3, 1, 'Samples')
                        with_mask_path = gr.Checkbox(True, label='Trajectory',
                                                     min_width=100)
                        synthesize = gr.Button('Synthesise', variant='primary',
                                               min_width=120)
                    samples = gr.Gallery(
                        label='Samples', format='png', columns=2, object_fit='contain',
                        buttons=['download', 'download_all', 'fullscreen'],
                        elem_id='samples')
            mask_path = show(elem_id='mask-path')

            for event, action, inputs in (
                    (page.load, actions.empty_mask, sides),
                    (empty.click, actions.empty_mask, sides),
                    (segmented.click, actions.segmented_mask, labels),
                    (uploaded.upload, actions.uploaded_mask, uploaded)):
                event(action, inputs, canvas, **quick).success(
                    None, canvas, js='url => { painter.load(url); }', **quick)
            synthesize.click(
                actions.synthesize,
                [canvas, *mask_how, seed, with_mask_path, num_samples],
                [drawn, samples, mask_path], show_progress_on=samples,
                js='(_, ...rest) => [painter.url(), ...rest]', **on_model).success(
                    actions.mask_path, [drawn, *mask_how, seed, with_mask_path],
                    mask_path, **on_model)
        else:
            heading('Mask to image', 'synthesis needs the config and the checkpoint, '
                    f'which <code>{name}</code> does not hold')

        results = [labels, overlaid, classes_found, image_path]
        image.change(actions.new_image, [image, *sides], [*results, *sides],
                     **quick)
        segment.click(
            actions.segment, [image, *image_how, with_image_path], results,
            show_progress_on=overlaid, **on_model).success(
                actions.image_path, [image, *image_how, with_image_path],
                image_path, **on_model)
        opacity.change(None, opacity, js='setOpacity', **quick)
        unsure.change(None, unsure, js='showEntropy', **quick)
    return page


def serve(inferencer: SemFlowInferencer, host: str = '127.0.0.1',
          port: int = 7860, **kwargs: Any) -> None:
    """Show the page until it is interrupted.

    What visitors upload and get lies in a folder of this process alone, and is gone
    in the end.

    Args:
        inferencer (SemFlowInferencer): See :func:`build_app`.
        host (str): Address to listen on. Defaults to ``'127.0.0.1'``, this
            machine alone; for others there is a warning.
        port (int): Its port, 0 for any. Defaults to 7860.
        **kwargs: Of :func:`build_app`.

    Raises:
        ImportError: If gradio is not installed.
        OSError: If the port is taken.
        ValueError: See :func:`build_app`.
    """
    with tempfile.TemporaryDirectory(prefix='semflow_page_') as folder:
        os.environ['GRADIO_TEMP_DIR'] = folder
        _serve(build_app(inferencer, **kwargs), host, port)


def is_public(host: str) -> bool:
    """Tell whether others than this machine reach an address."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host != 'localhost'


def _serve(app: Any, host: str, port: int) -> None:
    import uvicorn
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            # An open page holds connections, for which Ctrl+C would wait.
            timeout_graceful_shutdown=1,
            log_level='critical'))
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener, \
            suppress(KeyboardInterrupt):
        name = f'[{host}]' if ':' in host else host
        if is_public(host):
            print(f'warning: {name} can be reached from other machines, and what is '
                  'sent is not encrypted. Ask for a password (--user), and put a '
                  'proxy with TLS before it where the network is not yours', flush=True)
        print(f'http://{name}:{listener.getsockname()[1]}  (Ctrl+C ends it)',
              flush=True)
        server.run(sockets=[listener])
