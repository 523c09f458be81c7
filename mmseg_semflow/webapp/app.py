"""A web page for both directions of SemFlow."""

import base64
import binascii
import html
import os
import re
import socket
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence

import cv2
import numpy as np

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.flow import SOLVERS

MAX_SIDE = 4096

# The canvas is our own: gr.ImageEditor 4.44 offers four colours at most, blurs
# the edges of its strokes, and needs WebGL.
PAINTER = """
window.painter = {
  radius: 3, fill: false, past: [], last: null,
  get canvas() { return document.querySelector('#painter canvas'); },
  get pen() {
    return this.canvas.getContext('2d', {willReadFrequently: true});
  },
  get picture() {
    return this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height);
  },
  put(picture) {
    const {width, height} = picture, canvas = this.canvas;
    if (canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, {width, height});
      canvas.style.width = `min(100%, ${Math.round(420 * width / height)}px)`;
    }
    this.pen.putImageData(picture, 0, 0);
    document.querySelector('#painter-size').textContent = `${width} x ${height}`;
  },
  remember() { this.past = [...this.past.slice(-19), this.picture]; },
  undo() { if (this.past.length) this.put(this.past.pop()); },
  async load(url) {
    if (!url) return;
    const image = new Image();
    image.src = url;
    await image.decode();
    if (this.canvas.style.width) this.remember();
    const sheet = document.createElement('canvas');
    Object.assign(sheet, {width: image.width, height: image.height});
    const pen = sheet.getContext('2d');
    pen.drawImage(image, 0, 0);
    this.put(pen.getImageData(0, 0, image.width, image.height));
  },
  url() {
    return this.canvas.style.width ? this.canvas.toDataURL('image/png') : '';
  },
  choose(button) {
    for (const other of button.parentElement.children)
      other.setAttribute('aria-pressed', other === button);
  },
  get color() {
    return document.querySelector('#painter [data-color][aria-pressed=true]')
      .dataset.color;
  },
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      Math.floor((event.clientX - box.left) / box.width * this.canvas.width),
      Math.floor((event.clientY - box.top) / box.height * this.canvas.height)];
  },
  down(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.remember();
    this.pen.fillStyle = this.color;
    this.last = this.at(event);
    if (this.fill) this.flood(...this.last);
    else this.move(event);
  },
  move(event) {
    if (!this.last || this.fill) return;
    const [x0, y0] = this.last, [x1, y1] = this.last = this.at(event);
    const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
    for (let i = 0; i <= steps; i++)
      this.dot(Math.round(x0 + (x1 - x0) * i / steps),
               Math.round(y0 + (y1 - y0) * i / steps));
  },
  up() { this.last = null; },
  dot(x, y) {  // in whole pixels: an arc would be antialiased
    for (let dy = -this.radius; dy <= this.radius; dy++) {
      const dx = Math.round(Math.sqrt(this.radius ** 2 - dy ** 2));
      this.pen.fillRect(x - dx, y + dy, 2 * dx + 1, 1);
    }
  },
  flood(x, y) {
    const {width, height} = this.canvas, picture = this.picture;
    const pixels = new Uint32Array(picture.data.buffer), start = y * width + x;
    const from = pixels[start];
    this.pen.fillRect(x, y, 1, 1);
    const to = new Uint32Array(this.picture.data.buffer)[start];
    const open = from === to ? [] : [start];
    while (open.length) {
      const i = open.pop();
      if (pixels[i] !== from) continue;
      pixels[i] = to;
      if (i % width) open.push(i - 1);
      if ((i + 1) % width) open.push(i + 1);
      if (i >= width) open.push(i - width);
      if (i < width * (height - 1)) open.push(i + width);
    }
    if (from !== to) this.pen.putImageData(picture, 0, 0);
  },
};
"""

STYLE = """
.gradio-container { max-width: 1280px !important; }
.title h1 { font-size: 26px; font-weight: 700; margin: 0; }
.title p { margin: 2px 0 0; color: var(--body-text-color-subdued); }
.heading h2 { font-size: 17px; font-weight: 650; margin: 6px 0 0; }
.heading span { color: var(--body-text-color-subdued); font-weight: 400; }
.chips { display: flex; flex-wrap: wrap; gap: 5px; max-height: 180px;
  overflow-y: auto; }
.chip { display: inline-flex; align-items: center; gap: 5px; font-size: 13px;
  line-height: 1; padding: 5px 7px 5px 5px; border-radius: 6px;
  border: 1px solid var(--border-color-primary);
  background: var(--background-fill-primary); color: var(--body-text-color); }
.chip i { width: 14px; height: 14px; border-radius: 3px;
  box-shadow: inset 0 0 0 1px rgba(128, 128, 128, .5); }
.chip small { color: var(--body-text-color-subdued); font-size: 12px; }
button.chip:hover { border-color: var(--color-accent); }
button.chip[aria-pressed=true] { border-color: var(--color-accent);
  box-shadow: 0 0 0 1px var(--color-accent); font-weight: 600; }
#painter { display: flex; flex-direction: column; gap: 8px; }
#painter .sheet { background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); border-radius: 8px;
  display: flex; justify-content: center; padding: 8px; }
#painter canvas { image-rendering: pixelated; cursor: crosshair;
  touch-action: none; height: auto; }
#painter .tools { display: flex; align-items: center; gap: 8px;
  font-size: 13px; color: var(--body-text-color-subdued); }
#painter .tools input { width: 110px; accent-color: var(--color-accent); }
#painter-size { margin-left: auto; }
#image img { width: 100%; height: 100%; object-fit: contain; }
#overlay { --opacity: .6; height: 320px; padding: 8px; border-radius: 8px;
  border: 1px solid var(--border-color-primary); }
#overlay > *, .layers { height: 100%; }
.layers { display: grid; }
.layers img { grid-area: 1 / 1; width: 100%; height: 100%; min-height: 0;
  object-fit: contain; }
.layers img + img { opacity: var(--opacity); }
.strip { display: flex; gap: 6px; overflow-x: auto; padding-bottom: 4px; }
.strip figure { flex: none; margin: 0; font-size: 11px; text-align: center;
  color: var(--body-text-color-subdued); }
.strip img { height: 84px; border-radius: 4px; }
#samples .thumbnail-lg { aspect-ratio: auto; }
.toast-text { overflow-wrap: anywhere; }
footer { display: none !important; }
"""


def brush_colors(palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Make one colour for each class and one for void, all distinct.

    Some palettes, such as that of ADE20K, give two classes one colour; later
    ones are shifted a little.

    Args:
        palette (Sequence[Sequence[int]]): RGB colours of the classes.

    Returns:
        np.ndarray: RGB, uint8, shape (num_classes + 1, 3); the last is void's,
        black if no class has it.
    """
    colors = {}
    for red, green, blue in palette:
        while (red, green, blue) in colors:
            blue = (blue + 9) % 256
        colors[red, green, blue] = None
    void = next((v, v, v) for v in (0, 255, *range(1, 255))
                if (v, v, v) not in colors)
    return np.array([*colors, void], np.uint8)


def paint(label_map: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Colour labels.

    Args:
        label_map (np.ndarray): Labels, shape (H, W); all beyond the classes
            are void.
        colors (np.ndarray): See :func:`brush_colors`.

    Returns:
        np.ndarray: RGB, uint8, shape (H, W, 3).
    """
    return colors[np.clip(label_map, 0, len(colors) - 1)]


def read_paint(picture: np.ndarray, colors: np.ndarray,
               ignore_index: int) -> np.ndarray:
    """Label pixels by their nearest colour.

    Args:
        picture (np.ndarray): RGB, uint8, shape (H, W, 3).
        colors (np.ndarray): See :func:`brush_colors`.
        ignore_index (int): Label of void.

    Returns:
        np.ndarray: Labels, int64, shape (H, W).
    """
    found, index = np.unique(
        picture.reshape(-1, 3) @ np.array([65536, 256, 1]), return_inverse=True)
    found = np.stack([found >> 16, found >> 8 & 255, found & 255], 1)
    distances = np.stack([
        np.square(found - color).sum(1) for color in colors.astype(np.int64)])
    labels = distances.argmin(0)
    labels[labels == len(colors) - 1] = ignore_index
    return labels[index].reshape(picture.shape[:2])


def overlay(image: np.ndarray, label_map: np.ndarray,
            colors: np.ndarray) -> str:
    """Lay coloured labels over an image, as HTML; the page sets the opacity.

    Args:
        image (np.ndarray): RGB, uint8, shape (H, W, 3).
        label_map (np.ndarray): Labels, shape (H, W).
        colors (np.ndarray): See :func:`brush_colors`.
    """
    layers = ''.join(f'<img src="{to_url(picture)}">'
                     for picture in (image, paint(label_map, colors)))
    return f'<div class="layers">{layers}</div>'


def legend(label_map: np.ndarray, classes: Sequence[str],
           colors: np.ndarray) -> str:
    """List the classes of a label map as HTML, the largest first."""
    labels, counts = np.unique(label_map, return_counts=True)
    chips = [
        _chip(classes[labels[i]], colors[labels[i]],
              f'<small>{counts[i] / label_map.size:.1%}</small>')
        for i in np.argsort(-counts, kind='stable') if labels[i] < len(classes)
    ]
    return f'<div class="chips">{"".join(chips)}</div>'


def strip(pictures: np.ndarray, start: float, end: float) -> str:
    """Put the pictures of a trajectory in a row, as HTML.

    Args:
        pictures (np.ndarray): RGB, uint8, shape (N + 1, H, W, 3).
        start (float): Flow time of the first.
        end (float): Flow time of the last.

    Returns:
        str: The row; large pictures are shrunk.
    """
    scale = min(1, 256 / pictures.shape[1])
    figures = [
        '<figure><img src="{}"><figcaption>t = {:.2f}</figcaption></figure>'.format(
            to_url(cv2.resize(picture, None, fx=scale, fy=scale,
                              interpolation=cv2.INTER_AREA)), t)
        for picture, t in zip(
            pictures, np.linspace(start, end, len(pictures)), strict=True)
    ]
    return f'<div class="strip">{"".join(figures)}</div>'


def to_url(picture: np.ndarray) -> str:
    """Write RGB pixels as the data URL of a PNG."""
    data = cv2.imencode('.png', picture[..., ::-1])[1].tobytes()
    return f'data:image/png;base64,{base64.b64encode(data).decode()}'


def from_url(url: str) -> np.ndarray:
    """Read RGB pixels from the data URL of a PNG.

    Raises:
        ValueError: If it is none.
    """
    try:
        data = base64.b64decode(url.partition('base64,')[2], validate=True)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (binascii.Error, cv2.error):
        picture = None
    if picture is None:
        raise ValueError('there is no mask on the canvas')
    return picture[..., ::-1]


def _css(color: np.ndarray) -> str:
    return '#{:02x}{:02x}{:02x}'.format(*color)


def _chip(name: str, color: np.ndarray, text: str = '', tag: str = 'span',
          attributes: str = '') -> str:
    return (f'<{tag} class="chip" {attributes}><i style="background:'
            f'{_css(color)}"></i>{html.escape(name)}{text}</{tag}>')


def _painter(names: Sequence[str], colors: np.ndarray) -> str:
    """Make the canvas with its tools."""
    classes = ''.join(
        _chip(name, color, tag='button',
              attributes=f'data-color="{_css(color)}" aria-pressed='
              f'"{str(i == 0).lower()}" onclick="painter.choose(this)"')
        for i, (name, color) in enumerate(zip(names, colors, strict=True)))
    tools = ''.join(
        f'<button class="chip" aria-pressed="{pressed}" onclick='
        f'"painter.choose(this); painter.fill = {fill}">{name}</button>'
        for name, fill, pressed in (('Brush', 'false', 'true'),
                                    ('Fill', 'true', 'false')))
    return f'''<div id="painter"><div class="chips">{classes}</div>
<div class="sheet"><canvas width="1" height="1" aria-label="mask"
  onpointerdown="painter.down(event)" onpointermove="painter.move(event)"
  onpointerup="painter.up()" onpointercancel="painter.up()"></canvas></div>
<div class="tools"><div class="chips">{tools}</div>
<label>size <input type="range" min="0" max="40" value="3"
  oninput="painter.radius = +this.value"></label>
<button class="chip" onclick="painter.undo()">Undo</button>
<span id="painter-size"></span></div></div>'''


@contextmanager
def _errors_shown() -> Iterator[None]:
    """Show ValueErrors on the page."""
    try:
        yield
    except ValueError as error:
        import gradio
        raise gradio.Error(html.escape(str(error))) from error


class _Actions:
    """What the page does with the model."""

    def __init__(self, inferencer: SemFlowInferencer) -> None:
        self.inferencer = inferencer
        self.classes = inferencer.classes
        self.colors = brush_colors(inferencer.palette)

    def new_image(self, image: Optional[np.ndarray], *sides: int) -> tuple:
        return None, '', '', '', *(
            sides if image is None else image.shape[:2])

    @_errors_shown()
    def segment(self, image: Optional[np.ndarray], solver: str,
                num_steps: int) -> tuple:
        if image is None:
            raise ValueError('there is no image to segment')
        labels = self.inferencer.segment(
            image, solver=solver, num_steps=num_steps)
        return (labels, overlay(image, labels, self.colors),
                legend(labels, self.classes, self.colors), '')

    @_errors_shown()
    def image_path(self, image: np.ndarray, solver: str, num_steps: int,
                   shown: bool) -> str:
        return strip(
            self.inferencer.trajectory(
                image=image, solver=solver, num_steps=num_steps), 0,
            1) if shown else ''

    @_errors_shown()
    def synthesize(self, canvas: str, solver: str, num_steps: int, seed: int,
                   num_samples: int) -> tuple:
        labels = read_paint(from_url(canvas), self.colors,
                            self.inferencer.semflow.codec.ignore_index)
        images = self.inferencer.synthesize(
            labels, num_samples=num_samples, solver=solver,
            num_steps=num_steps, seed=seed)
        samples = [(image, f'sample {i}') for i, image in enumerate(images)]
        return labels, samples, ''

    @_errors_shown()
    def mask_path(self, labels: np.ndarray, solver: str, num_steps: int,
                  seed: int, shown: bool) -> str:
        return strip(
            self.inferencer.trajectory(
                mask=labels, solver=solver, num_steps=num_steps, seed=seed), 1,
            0) if shown else ''

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
        try:
            labels = self.inferencer.read(path, self.inferencer.palette)
        except ValueError as error:
            # Not the copy's path, but the name that the user knows.
            raise ValueError(
                str(error).replace(path, Path(path).name)) from error
        return self._to_canvas(labels.numpy())

    def _to_canvas(self, labels: np.ndarray) -> str:
        return to_url(paint(labels, self.colors))


def build_app(inferencer: SemFlowInferencer) -> Any:
    """Build the page.

    Args:
        inferencer (SemFlowInferencer): The model, with ``channel_order='rgb'``.

    Returns:
        gradio.Blocks: The page.

    Raises:
        ImportError: If gradio is not installed.
        ValueError: If the order of the channels is another.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("the web page needs gradio: "
                          "pip install 'mmseg_semflow[demo]'") from error
    if inferencer.channel_order != 'rgb':
        raise ValueError("channel_order must be 'rgb', but got "
                         f'{inferencer.channel_order!r}')
    _name_no_other_host(gr.routes.templates.env)
    actions = _Actions(inferencer)
    test_cfg = getattr(inferencer.model, 'test_cfg', None) or {}
    synthesizer = inferencer.synthesizer()
    cfg = inferencer.model.cfg
    size = (synthesizer.size or cfg.get('crop_size')
            or cfg.get('generate', {}).get('size') or (512, 512))
    # One thing at a time on the one model.
    on_model = dict(concurrency_id='model', concurrency_limit=1, api_name=False)
    quick = dict(show_progress='hidden', api_name=False)

    def controls(solver: str, num_steps: int) -> list:
        return [gr.Dropdown(list(SOLVERS), value=solver, label='Solver',
                            min_width=100),
                gr.Slider(1, max(100, num_steps), num_steps, step=1,
                          label='Steps', min_width=140)]

    def heading(title: str, subtitle: str) -> None:
        gr.HTML(f'<h2>{title} <span>{subtitle}</span></h2>',
                elem_classes='heading')

    with gr.Blocks(
            title='SemFlow', css=STYLE, head=f'<script>{PAINTER}</script>',
            theme=gr.themes.Default(
                primary_hue='blue', neutral_hue='slate', spacing_size='sm',
                radius_size='sm', text_size='sm',
                # The theme's own would come from the web.
                font=('Inter', 'Helvetica Neue', 'Arial', 'sans-serif'),
                font_mono=('Consolas', 'Menlo', 'monospace'),
            ).set(
                button_primary_background_fill='*primary_600',
                button_primary_background_fill_hover='*primary_700',
                button_primary_text_color='white',
                button_secondary_background_fill='*neutral_100',
                button_secondary_background_fill_hover='*neutral_200'),
            analytics_enabled=False, delete_cache=(3600, 86400)) as app:
        gr.HTML(
            '<h1>SemFlow</h1><p>One ordinary differential equation, both ways: '
            'from image (t = 0) to mask (t = 1), and back. '
            f'<code>{html.escape(Path(cfg.filename or "").name)}</code>, '
            f'{len(inferencer.classes)} classes.</p>', elem_classes='title')

        heading('Image to mask', 'segmentation')
        labels = gr.State()
        with gr.Row(equal_height=True):
            image = gr.Image(label='Image', sources=['upload'], image_mode='RGB',
                             height=320, elem_id='image')
            overlaid = gr.HTML(elem_id='overlay')
        classes_found = gr.HTML(elem_id='legend')
        with gr.Row(equal_height=True):
            image_how = controls(test_cfg.get('solver', 'euler'),
                                 test_cfg.get('num_steps', 25))
            opacity = gr.Slider(0, 1, 0.6, step=0.05, label='Opacity',
                                min_width=140, elem_id='opacity')
            with_image_path = gr.Checkbox(True, label='Trajectory',
                                          min_width=100)
            segment = gr.Button('Segment', variant='primary', min_width=120)
        image_path = gr.HTML(elem_id='image-path')

        heading('Mask to image', 'synthesis')
        canvas, drawn = gr.Textbox(visible=False), gr.State()
        with gr.Row():
            with gr.Column():
                with gr.Row(equal_height=True):
                    sides = [
                        gr.Number(side, label=name, precision=0, min_width=60)
                        for name, side in zip(('Height', 'Width'), size,
                                              strict=True)]
                    empty = gr.Button('Empty mask', size='sm', min_width=80)
                    segmented = gr.Button('From segmentation', size='sm',
                                          min_width=80)
                    uploaded = gr.UploadButton(
                        'Upload mask', size='sm', min_width=80,
                        file_types=['.png', '.bmp', '.tif', '.tiff'])
                gr.HTML(_painter([*inferencer.classes, 'void'], actions.colors))
            with gr.Column():
                with gr.Row(equal_height=True):
                    mask_how = controls(synthesizer.solver, synthesizer.num_steps)
                    seed = gr.Number(synthesizer.seed, label='Seed', precision=0,
                                     min_width=80)
                with gr.Row(equal_height=True):
                    num_samples = gr.Slider(1, 16, 3, step=1, label='Samples',
                                            min_width=140)
                    with_mask_path = gr.Checkbox(True, label='Trajectory',
                                                 min_width=100)
                    synthesize = gr.Button('Synthesize', variant='primary',
                                           min_width=120)
                samples = gr.Gallery(
                    label='Samples', format='png', columns=2, height=420,
                    object_fit='contain', elem_id='samples')
        mask_path = gr.HTML(elem_id='mask-path')

        results = [labels, overlaid, classes_found, image_path]
        image.change(actions.new_image, [image, *sides], [*results, *sides],
                     **quick)
        # Not one generator: of two results in one frame, gradio 4.44 lets the
        # second overwrite the first.
        segment.click(
            actions.segment, [image, *image_how], results,
            **on_model).success(actions.image_path,
                                [image, *image_how, with_image_path],
                                image_path, **on_model)
        opacity.change(
            None, opacity, js='value => { document.querySelector("#overlay")'
            '.style.setProperty("--opacity", value); }', **quick)
        for event, action, inputs in (
                (app.load, actions.empty_mask, sides),
                (empty.click, actions.empty_mask, sides),
                (segmented.click, actions.segmented_mask, labels),
                (uploaded.upload, actions.uploaded_mask, uploaded)):
            event(action, inputs, canvas, **quick).success(
                None, canvas, js='url => { painter.load(url); }', **quick)
        synthesize.click(
            actions.synthesize, [canvas, *mask_how, seed, num_samples],
            [drawn, samples, mask_path],
            js='(_, ...rest) => [painter.url(), ...rest]', **on_model).success(
                actions.mask_path, [drawn, *mask_how, seed, with_mask_path],
                mask_path, **on_model)
    return app


def _name_no_other_host(pages: Any) -> None:
    """Take a script and fonts of other hosts, not in use, from the page."""
    import jinja2
    foreign = re.compile(r'<(link|script)\s[^>]*https://[^>]*>(\s*</script>)?')
    pages.loader = jinja2.DictLoader({
        name: foreign.sub('', pages.loader.get_source(pages, name)[0])
        for name in ('frontend/index.html', 'frontend/share.html')})


def serve(inferencer: SemFlowInferencer, host: str = '127.0.0.1',
          port: int = 7860) -> None:
    """Show the page until it is interrupted.

    Args:
        inferencer (SemFlowInferencer): See :func:`build_app`.
        host (str): Address to listen on. Defaults to ``'127.0.0.1'``, this
            machine alone.
        port (int): Its port, 0 for any. Defaults to 7860.

    Raises:
        ImportError: If gradio is not installed.
        OSError: If the port is taken.
        ValueError: See :func:`build_app`.
    """
    app = build_app(inferencer)
    import fastapi
    import gradio
    import uvicorn
    # Not app.launch, which calls itself through the proxy, if there is one.
    server = uvicorn.Server(
        uvicorn.Config(
            gradio.mount_gradio_app(fastapi.FastAPI(), app, path='/'),
            # An open page holds connections, for which Ctrl+C would wait.
            timeout_graceful_shutdown=1,
            log_level='critical'))
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener, \
            suppress(KeyboardInterrupt):
        name = f'[{host}]' if ':' in host else host
        print(f'http://{name}:{listener.getsockname()[1]}  (Ctrl+C ends it)',
              flush=True)
        server.run(sockets=[listener])
