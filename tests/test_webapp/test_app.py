"""The web page: as a server, and in a browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import cv2
import numpy as np
import pytest
from mmengine import Config
from PIL import ExifTags, Image

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.apis.checkpoint_conversion import checkpoint_to_folder
from mmseg_semflow.export.graph import export_segmentor
from mmseg_semflow.export.pipeline import SemFlowPipeline
from mmseg_semflow.synthesis.pictures import entropy_picture
from mmseg_semflow.webapp.app import build_app
from mmseg_semflow.webapp.markup import (
    FILES,
    brush_colours,
    from_url,
    paint,
    read_paint,
)
from tiny import META, TEST_PIPELINE, save_checkpoint, segmentor_cfg

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
FLAGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run '
         '--disable-background-networking --disable-component-update '
         '--disable-sync').split()
COLOURS = brush_colours(META['palette'])


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp('app')
    Config(
        dict(
            default_scope='mmseg',
            model=segmentor_cfg(),
            test_pipeline=TEST_PIPELINE,
            crop_size=(24, 32))).dump(root / 'config.py')
    save_checkpoint(root / 'semflow.pth')
    return root / 'config.py', root / 'semflow.pth'


@pytest.fixture(scope='module')
def inferencer(files):
    return SemFlowInferencer(*files, device='cpu', channel_order='rgb')


def test_what_the_page_needs(inferencer, files, monkeypatch):
    bgr = SemFlowInferencer(*files, device='cpu')
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(
            ImportError, match=r"pip install 'mmseg_semflow\[demo\]'"):
        build_app(inferencer)
    monkeypatch.undo()
    pytest.importorskip('gradio')
    with pytest.raises(ValueError, match="must be 'rgb', but got 'bgr'"):
        build_app(bgr)


@contextmanager
def served(folder, *args):
    """Start the tool as a user does, and give the address that it says."""
    server = subprocess.Popen(
        [sys.executable, ROOT / 'tools/demo_app.py', *args, '--port', '0'],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=dict(os.environ, HTTP_PROXY='http://127.0.0.1:9', NO_PROXY='',
                 GRADIO_TEMP_DIR=str(folder / 'gradio')))
    printed = ['']
    while not printed[-1].startswith('http://127.0.0.1:'):
        printed.append(server.stdout.readline())
        assert printed[-1], ''.join(printed)
    yield printed[-1].split()[0] + '/'
    server.send_signal(signal.SIGINT)
    output = server.communicate(timeout=60)[0]
    assert 'KeyboardInterrupt' not in output and 'ASGI' not in output


@pytest.fixture(scope='module')
def address(files):
    pytest.importorskip('gradio')
    with served(files[0].parent, *files, '--device', 'cpu') as found:
        yield found


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    pytest.importorskip('playwright')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as driver:
        chromium = CHROMIUM or driver.chromium.executable_path
        if not Path(chromium).exists():
            pytest.skip("there is no chromium: none on the path, nor playwright's")
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp('profile'), executable_path=chromium,
            headless=True, args=FLAGS, viewport=dict(width=1280, height=1000))
        yield context
        context.close()


@contextmanager
def opened(browser, address, theme='light'):
    """Open the page, and see in the end that nothing went wrong in it."""
    page, wrong = browser.new_page(), []
    page.emulate_media(color_scheme=theme)
    page.set_default_timeout(20_000)
    page.on('pageerror', lambda error: wrong.append(str(error)))
    page.on('console', lambda message: wrong.append(message.text)
            if message.type == 'error' else None)
    page.on('response', lambda response: wrong.append(response.url)
            if response.status >= 400 else None)
    page.on('request', lambda request: None if request.url.startswith(
        (address, 'data:', 'blob:')) else wrong.append(request.url))
    # The page itself ends the streams that it has read.
    page.on('requestfailed', lambda request: None
            if re.search('/queue/data|/upload_progress', request.url)
            else wrong.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert not wrong


@pytest.fixture
def page(browser, address, request):
    """The page; its parameter is the theme that the browser asks for."""
    with opened(browser, address, getattr(request, 'param', 'light')) as page:
        page.wait_for_selector('#painter canvas')
        page.wait_for_function('painter.canvas.width > 1')
        yield page


def click(page, name):
    page.get_by_role('button', name=name, exact=True).click()


def labels_on_canvas(page):
    return read_paint(from_url(page.evaluate('painter.url()')), COLOURS, 255)


def pictures(page, selector):
    """Wait for pictures that are not known yet, and download them."""
    page.wait_for_function(
        '''selector => {
            const found = [...document.querySelectorAll(selector)];
            const key = found.map(image => image.src).join();
            window.known ??= {};
            if (!key || key === known[selector]) return false;
            known[selector] = key;
            return true;
        }''', arg=selector)
    urls = page.eval_on_selector_all(selector, 'all => all.map(i => i.src)')
    data = [page.request.get(url).body() for url in urls]
    return data, np.stack([
        cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        for one in data
    ])


@pytest.mark.browser
def test_image_to_mask_to_canvas(page, inferencer, tmp_path):
    from playwright.sync_api import expect
    image = np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8)
    image = cv2.GaussianBlur(image, (5, 5), 0)
    cv2.imwrite(str(tmp_path / 'image.png'), image[..., ::-1])
    page.set_input_files('#image input[type=file]', tmp_path / 'image.png')
    expect(page.get_by_label('Height')).to_have_value('20')
    page.get_by_label('number input for Steps').first.fill('3')
    page.get_by_label('number input for Steps').first.blur()
    click(page, 'Segment')
    expected = inferencer.segment(image, num_steps=3)
    assert len(np.unique(expected)) > 1
    layers = page.locator('#overlay img')
    expect(layers).to_have_count(3)
    logits = inferencer.segment(
        image, num_steps=3, return_datasamples=True).seg_logits.data
    for i, picture in enumerate((image, paint(expected, COLOURS),
                                 entropy_picture(logits))):
        np.testing.assert_array_equal(
            from_url(layers.nth(i).get_attribute('src')), picture)
    expect(layers.nth(1)).to_have_css('opacity', '0.6')
    expect(layers.last).to_be_hidden()
    page.get_by_label('Uncertainty').check()
    expect(layers.last).to_be_visible()
    expect(layers.nth(1)).to_be_hidden()
    page.get_by_label('number input for Opacity').fill('0.25')
    expect(layers.last).to_have_css('opacity', '0.25')
    expect(layers.first).to_have_css('opacity', '1')
    page.wait_for_function('document.querySelectorAll("#image-path img").length == 4')
    shown = page.eval_on_selector_all(
        '#image-path img', 'all => all.map(i => i.src)')
    for found, picture in zip(
            shown, inferencer.trajectory(image=image, num_steps=3), strict=True):
        np.testing.assert_array_equal(from_url(found), picture)
    names = page.locator('#legend .chip').all_inner_texts()
    assert len(names) == len(np.unique(expected))
    click(page, 'From segmentation')
    page.wait_for_function('painter.canvas.width == 28')
    np.testing.assert_array_equal(labels_on_canvas(page), expected)
    click(page, 'Undo')
    assert (labels_on_canvas(page) == np.zeros((24, 32))).all()


@pytest.mark.browser
def test_the_page_of_an_onnx_file(browser, files, tmp_path):
    """It segments, a picture that lies on its side as well, and offers nothing else."""
    pytest.importorskip('gradio')
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    from playwright.sync_api import expect
    cfg = Config.fromfile(files[0])
    cfg.test_dataloader = dict(dataset=dict(type='BaseSegDataset', metainfo=META))
    checkpoint_to_folder(cfg, files[1], tmp_path / 'folder')
    file = tmp_path / 'street.onnx'
    export_segmentor(SemFlowPipeline.from_pretrained(tmp_path / 'folder'), file)
    inferencer = SemFlowInferencer(file, channel_order='rgb')
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    image = cv2.GaussianBlur(image, (5, 5), 0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(image).save(tmp_path / 'plain.png')
    Image.fromarray(image).save(tmp_path / 'turned.png', exif=exif)
    with served(tmp_path, file, '--providers', 'CPUExecutionProvider') as address, \
            opened(browser, address) as page:
        expect(page.locator('.title code').last).to_have_text('street.onnx')
        expect(page.get_by_text('synthesis needs the config')).to_be_visible()
        expect(page.locator('#painter')).to_have_count(0)
        for name, expected in (('plain', image), ('turned', np.rot90(image, -1))):
            if name == 'turned':
                page.get_by_label('Remove Image').click()
            page.set_input_files('#image input[type=file]', tmp_path / f'{name}.png')
            page.wait_for_selector(f'#image img[src*="{name}.png"]')
            click(page, 'Segment')
            layers = page.locator('#overlay img')
            expect(layers).to_have_count(2)
            labels = inferencer.segment(expected)
            assert len(np.unique(labels)) > 1
            for layer, picture in zip(layers.all(), (expected, paint(labels, COLOURS)),
                                      strict=True):
                np.testing.assert_array_equal(
                    from_url(layer.get_attribute('src')), picture)
            expect(page.locator('#legend .chip')).to_have_count(len(np.unique(labels)))


@pytest.mark.browser
def test_paint_and_synthesize(page, inferencer):
    page.locator('#painter canvas').scroll_into_view_if_needed()
    box = page.locator('#painter canvas').bounding_box()

    def at(column, row):
        return (box['x'] + (column + 0.5) * box['width'] / 32,
                box['y'] + (row + 0.5) * box['height'] / 24)

    click(page, 'd')
    page.mouse.move(*at(8, 10))
    page.mouse.down()
    page.mouse.move(*at(20, 10), steps=4)
    page.mouse.up()
    labels = labels_on_canvas(page)
    assert labels.shape == (24, 32) and set(labels.flat) == {0, 3}
    assert (labels[7:14, 8:21] == 3).all() and (labels[10] == 3).sum() == 19
    click(page, 'Fill')
    click(page, 'void')
    page.mouse.click(*at(0, 0))
    labels[labels == 0] = 255
    np.testing.assert_array_equal(labels_on_canvas(page), labels)

    page.get_by_label('number input for Steps').last.fill('3')
    page.get_by_label('number input for Samples').fill('2')
    found = []
    for seed in (0, 1, 0):
        page.get_by_label('Seed').fill(str(seed))
        page.get_by_label('Seed').blur()
        click(page, 'Synthesise')
        data, images = pictures(page, '#samples .thumbnail-lg img')
        np.testing.assert_array_equal(
            images,
            inferencer.synthesize(
                labels, num_samples=2, seed=seed, num_steps=3, solver='euler'))
        page.wait_for_function(
            'document.querySelectorAll("#mask-path img").length == 4')
        found.append(data)
    assert found[0] == found[2]
    assert len({*found[0], *found[1]}) == 4
    last = page.locator('#mask-path img').last.get_attribute('src')
    np.testing.assert_array_equal(from_url(last), images[0])


@pytest.mark.browser
def test_files_and_errors(page, tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (10, 12), np.uint8)
    labels[0] = 255
    cv2.imwrite(str(tmp_path / 'labels.png'), labels)
    cv2.imwrite(str(tmp_path / 'wrong.png'), labels + np.uint8(3))
    coloured = paint(labels[1:], COLOURS)
    cv2.imwrite(str(tmp_path / 'coloured.png'), coloured[..., ::-1])
    (tmp_path / 'empty.png').write_bytes(b'')
    upload = page.locator('input[type=file][accept*=".tif"]')
    upload.set_input_files(tmp_path / 'labels.png')
    page.wait_for_function('painter.canvas.width == 12')
    np.testing.assert_array_equal(labels_on_canvas(page), labels)
    upload.set_input_files(tmp_path / 'coloured.png')
    page.wait_for_function('painter.canvas.height == 9')
    np.testing.assert_array_equal(labels_on_canvas(page), labels[1:])
    click(page, 'Undo')
    upload.set_input_files(tmp_path / 'empty.png')
    page.get_by_text('empty.png cannot be read as a picture').wait_for()
    upload.set_input_files(tmp_path / 'wrong.png')
    page.get_by_text('wrong.png has the labels [5, 6, 7]').wait_for()
    click(page, 'From segmentation')
    page.get_by_text('no image has been segmented yet').wait_for()
    click(page, 'Segment')
    page.get_by_text('there is no image to segment').wait_for()
    (tmp_path / 'text.png').write_bytes(b'text')
    page.set_input_files('#image input[type=file]', tmp_path / 'text.png')
    page.get_by_text('text.png cannot be read as a picture').wait_for()
    assert '/' not in page.get_by_text('text.png cannot be').inner_text()
    np.testing.assert_array_equal(labels_on_canvas(page), labels)


@pytest.mark.browser
@pytest.mark.parametrize('width', [1280, 390])
def test_layout(page, tmp_path, width):
    """What gradio changes from release to release, and users then see."""
    page.set_viewport_size(dict(width=width, height=844))
    on_phone = width == 390
    page.context.new_cdp_session(page).send(
        'Emulation.setTouchEmulationEnabled', dict(enabled=on_phone))
    cv2.imwrite(str(tmp_path / 'tall.png'), np.full((60, 20, 3), 99, np.uint8))
    page.set_input_files('#image input[type=file]', tmp_path / 'tall.png')
    page.get_by_label('number input for Steps').last.fill('60')
    click(page, 'Segment')
    page.wait_for_selector('#image-path img')
    click(page, 'Synthesise')
    page.wait_for_selector('#mask-path img')
    assert page.evaluate('document.documentElement.scrollWidth') == width

    frame = page.locator('#overlay').bounding_box()
    assert frame['width'] >= 300
    for selector in ('#overlay img', '#overlay label'):
        inner = page.locator(selector).first.bounding_box()
        for start, length in (('x', 'width'), ('y', 'height')):
            assert inner[start] >= frame[start]
            assert inner[start] + inner[length] <= frame[start] + frame[length]
    for name in ('Segment', 'Empty mask', 'Upload mask', 'Synthesise', 'Undo'):
        button = page.get_by_role('button', name=name, exact=True)
        assert (40 if on_phone else 24) <= button.bounding_box()['height'] < 45
    for chip in page.locator('#painter .chip').all():
        assert chip.bounding_box()['width'] >= (40 if on_phone else 24)
    page.set_viewport_size(dict(width=1800, height=844))
    image, overlay = (
        page.locator(name).bounding_box() for name in ('#image', '#overlay'))
    assert image['x'] + overlay['x'] + overlay['width'] == pytest.approx(
        1800, abs=2)

    # The style sheet: no rule without an element, no unknown declaration.
    page.get_by_label('Height').fill('0')
    click(page, 'Empty mask')
    page.get_by_text('height and width of a mask must be in').wait_for()
    text = re.sub(r'/[*].*?[*]/', '', (FILES / 'page.css').read_text(), flags=re.S)
    idle = page.evaluate(
        """text => {
            const sheet = new CSSStyleSheet();
            sheet.replaceSync(text);
            const flat = rules => [...rules].flatMap(
                rule => rule.selectorText ?? flat(rule.cssRules));
            // But for what a box toggles.
            const here = one => one.replace(/:not\\(.unsure\\)|[.]unsure/, '')
                .replace(/::?[a-z-]+$/, '');
            return flat(sheet.cssRules).flatMap(all => all.split(', ')).filter(
                one => !document.querySelector(here(one)));
        }""", text)
    assert not idle
    declarations = re.findall(r'([\w-]+):\s*([^;{}]+?)(?: !important)?;', text)
    assert len(declarations) > 80
    unknown = page.evaluate(
        """all => all.filter(([name, value]) => !CSS.supports(name, value) ||
            [...value.matchAll(/var[(](.*?)[)]/g)].some(
                found => !getComputedStyle(document.querySelector('.layers'))
                    .getPropertyValue(found[1])))""", declarations)
    assert not unknown


@pytest.mark.browser
@pytest.mark.parametrize('page', ['light', 'dark'], indirect=True)
def test_text_can_be_read(page):
    """All text has the contrast that WCAG asks for, 4.5, in both themes."""
    found = page.evaluate(
        """() => [...document.querySelectorAll(
                'h1, h2, p, h2 span, .chip, label, button, .size')].map(element => {
                const colour = getComputedStyle(element).color;
                while (/, 0[)]|transparent/.test(
                        getComputedStyle(element).backgroundColor))
                    element = element.parentElement;
                return [colour, getComputedStyle(element).backgroundColor];
            })""")
    assert len(found) > 15

    def luminance(text):
        levels = np.array([int(v) for v in re.findall(r'\d+', text)[:3]]) / 255
        linear = np.where(
            levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055)**2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for pair in found:
        dark, bright = sorted(map(luminance, pair))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, pair
    assert (luminance(found[0][1]) < 0.2) == page.evaluate(
        'matchMedia("(prefers-color-scheme: dark)").matches')


@pytest.mark.browser
@pytest.mark.parametrize('page', ['light', 'dark'], indirect=True)
def test_no_serious_fault_for_those_who_do_not_see_or_point(page, tmp_path):
    """As axe-core judges a page with results of both directions on it."""
    axe = pytest.importorskip('axe_playwright_python.sync_playwright').Axe()
    cv2.imwrite(str(tmp_path / 'image.png'), np.full((24, 32, 3), 99, np.uint8))
    page.set_input_files('#image input[type=file]', tmp_path / 'image.png')
    click(page, 'Segment')
    page.wait_for_selector('#image-path img')
    click(page, 'Synthesise')
    page.wait_for_selector('#mask-path img')
    # What is pending fades in.
    page.wait_for_function("""() => {
        for (let e of document.querySelectorAll('#image-path img, #mask-path img'))
            for (; e; e = e.parentElement)
                if (getComputedStyle(e).opacity < 1) return false;
        return true;
    }""")
    found = axe.run(page).response
    assert len(found['passes']) > 15
    faults = [
        (rule['impact'], rule['id'], node['html'][:200], node['failureSummary'])
        for rule in found['violations'] for node in rule['nodes']
        if rule['impact'] in ('serious', 'critical')]
    assert not faults, '\n'.join(map(str, faults))


@pytest.mark.browser
def test_a_browser_fetches_only_its_own_files(browser, address, files, tmp_path):
    """Whatever it makes of dots and slashes before it asks."""
    cv2.imwrite(str(tmp_path / 'own.png'), np.full((6, 8, 3), 99, np.uint8))
    page = browser.new_page()
    page.goto(address)
    page.set_input_files('#image input[type=file]', tmp_path / 'own.png')
    own = page.wait_for_selector('#image img[src*="own.png"]').get_attribute('src')
    uploads = own.partition('file=')[2].rpartition('/')[0]
    up = '../' * (uploads.count('/') + 1)
    secret = str(files[0])
    tried = [
        secret, files[0].name, '/etc/passwd', f'file://{secret}', f'/{secret}',
        f'{uploads}/{up}{secret}', f'{uploads}/{up}etc/passwd'
    ]
    tried += [path.replace('/', '%2f') for path in tried]
    tried += [path.replace('..', '%2e%2e') for path in tried if '..' in path]
    urls = [own, *(
        f'{address}{route}{path}' for path in tried
        for route in ('gradio_api/file=', 'file=', 'static/', 'assets/', ''))]
    answers = page.evaluate(
        """urls => Promise.all(urls.map(async url => {
            const answer = await fetch(url);
            return [url, answer.status, await answer.text()];
        }))""", urls)
    page.close()
    assert answers.pop(0)[:2] == [own, 200]
    assert len(answers) == len(urls) - 1 > 80
    for url, status, text in answers:
        assert 'default_scope' not in text and 'root:x:' not in text, url
        assert status >= 400 or text.lstrip().startswith('<!doctype html>'), url


@pytest.mark.process
def test_listens_on_loopback_alone(address):
    port = int(address.rstrip('/').rpartition(':')[2])
    table = Path('/proc/net/tcp')
    if not table.exists():
        pytest.skip('there is no /proc/net/tcp')
    rows = [row.split() for row in table.read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == '0A']
    assert [place for place in listening
            if place.endswith(f':{port:04X}')] == [f'0100007F:{port:04X}']


def ask(address, path, body=None):
    """Send a request, and return the status and the text of the answer."""
    request = Request(
        address + path, body and json.dumps(body).encode(),
        {'Content-Type': 'application/json'})
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.process
def test_files_stay_on_the_machine(address, files):
    """Neither by their names nor as masks to upload."""
    secret = files[0].parent / 'secret.png'
    cv2.imwrite(str(secret), np.zeros((6, 7), np.uint8))
    for path in (secret, files[0], files[0].name, 'secret.png', ROOT / 'setup.py',
                 '/etc/passwd', '../secret.png', '..%2F..%2Fetc%2Fpasswd'):
        for route in ('gradio_api/file=', 'file=', 'static/', 'assets/'):
            status, text = ask(address, f'{route}{path}')
            assert status in (403, 404), (route, path, text)

    stolen = dict(path=str(secret), meta={'_type': 'gradio.FileData'})
    config = json.loads(ask(address, 'config')[1])
    calls = {event: call['id'] for call in config['dependencies']
             for _, event in call['targets']}
    for event, data in dict(upload=[stolen], change=[stolen, 1, 1]).items():
        session = dict(fn_index=calls[event], session_hash=f'thief-{event}')
        status, text = ask(
            address, 'gradio_api/queue/join', dict(session, data=data))
        assert status == 200, text
        status, text = ask(
            address, f'gradio_api/queue/data?session_hash=thief-{event}')
        done, = [line for line in text.splitlines()
                 if 'process_completed' in line]
        assert not json.loads(done[len('data:'):])['success'], done
        # Nor does the error say what lies where.
        assert 'secret' not in done


@pytest.mark.process
def test_nothing_to_call_from_outside(address):
    status, text = ask(address, 'gradio_api/info')
    assert status == 200 and json.loads(text)['named_endpoints'] == {}
    assert ask(address, 'gradio_api/runs')[0] == 404
