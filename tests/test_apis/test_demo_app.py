"""The web page: its functions, and the page itself in a browser."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine import Config

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.webapp.app import (
    brush_colors,
    build_app,
    from_url,
    legend,
    overlay,
    paint,
    read_paint,
    strip,
    to_url,
)
from tiny import META, TEST_PIPELINE, save_checkpoint, segmentor_cfg

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
FLAGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run '
         '--disable-background-networking --disable-component-update '
         '--disable-sync').split()
COLORS = brush_colors(META['palette'])


def test_brush_colors_are_distinct():
    palette = [[0, 0, 0], [9, 9, 9], [9, 9, 9], [9, 9, 18], [255, 255, 255]]
    colors = brush_colors(palette)
    assert len(np.unique(colors, axis=0)) == len(colors) == 6
    np.testing.assert_array_equal(colors[[0, 1, 4]], np.array(palette)[[0, 1, 4]])
    assert brush_colors([[9, 9, 9]])[-1].tolist() == [0, 0, 0]


def test_paint_and_back():
    labels = np.random.default_rng(0).integers(0, 6, (7, 9))
    labels[labels == 5] = 255
    picture = paint(labels, COLORS)
    np.testing.assert_array_equal(picture[labels == 2], [META['palette'][2]] * (
        labels == 2).sum())
    blurred = np.clip(picture.astype(int) + [7, 5, -3], 0, 255).astype(np.uint8)
    for pixels in (picture, blurred, from_url(to_url(picture))):
        np.testing.assert_array_equal(read_paint(pixels, COLORS, 255), labels)


@pytest.mark.parametrize('url', ['', 'data:image/png;base64,', 'base64,AAAA'])
def test_no_mask(url):
    with pytest.raises(ValueError, match='there is no mask on the canvas'):
        from_url(url)


def test_overlay_and_legend():
    image = np.full((2, 4, 3), 100, np.uint8)
    labels = np.array([[0, 1, 1, 1], [2, 2, 1, 1]])
    urls = overlay(image, labels, COLORS).split('"')[3::2]
    for url, picture in zip(urls, (image, paint(labels, COLORS)), strict=True):
        np.testing.assert_array_equal(from_url(url), picture)
    names = [f'{name}<' for name in META['classes']]
    text = legend(labels, names, COLORS)
    places = [text.index(part) for part in (
        'b&lt;<small>62.5%', 'c&lt;<small>25.0%', 'a&lt;<small>12.5%')]
    assert places == sorted(places)
    assert '#320000' in text and 'd&lt;' not in text


def test_strip_names_the_times():
    text = strip(np.zeros((3, 512, 4, 3), np.uint8), 1, 0)
    times = [text.index(f't = {t}<') for t in ('1.00', '0.50', '0.00')]
    assert times == sorted(times)
    url = text.split('"')[3]
    assert from_url(url).shape == (256, 2, 3)


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


@pytest.fixture(scope='module')
def address(files):
    """Start the tool as a user does."""
    pytest.importorskip('gradio')
    server = subprocess.Popen(
        [sys.executable, ROOT / 'tools/demo_app.py', *files, '--device', 'cpu',
         '--port', '0'], cwd=files[0].parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=dict(os.environ, HTTP_PROXY='http://127.0.0.1:9', NO_PROXY='',
                 GRADIO_TEMP_DIR=str(files[0].parent / 'gradio')))
    printed = ['']
    while not printed[-1].startswith('http://127.0.0.1:'):
        printed.append(server.stdout.readline())
        assert printed[-1], ''.join(printed)
    yield printed[-1].split()[0] + '/'
    server.send_signal(signal.SIGINT)
    output = server.communicate(timeout=20)[0]
    assert 'KeyboardInterrupt' not in output and 'ASGI' not in output


@pytest.fixture(scope='module')
def browser(address, tmp_path_factory):
    pytest.importorskip('playwright')
    if CHROMIUM is None:
        pytest.skip('there is no chromium on the path')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp('profile'), executable_path=CHROMIUM,
            headless=True, args=FLAGS, viewport=dict(width=1280, height=1000))
        yield context
        context.close()


@pytest.fixture
def page(browser, address):
    """Open the page, and see in the end that nothing went wrong in it."""
    page, wrong = browser.new_page(), []
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
            if '/queue/data' in request.url else wrong.append(request.url))
    page.goto(address)
    page.wait_for_selector('#painter canvas')
    page.wait_for_function('painter.canvas.width > 1')
    yield page
    page.close()
    assert not wrong


def click(page, name):
    page.get_by_role('button', name=name, exact=True).click()


def labels_on_canvas(page):
    return read_paint(from_url(page.evaluate('painter.url()')), COLORS, 255)


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
    expect(layers).to_have_count(2)
    for i, picture in enumerate((image, paint(expected, COLORS))):
        np.testing.assert_array_equal(
            from_url(layers.nth(i).get_attribute('src')), picture)
    expect(layers.last).to_have_css('opacity', '0.6')
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
        click(page, 'Synthesize')
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
def test_masks_from_files(page, tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (10, 12), np.uint8)
    labels[0] = 255
    cv2.imwrite(str(tmp_path / 'labels.png'), labels)
    cv2.imwrite(str(tmp_path / 'wrong.png'), labels + np.uint8(3))
    upload = page.locator('input[type=file][accept*=".tif"]')
    upload.set_input_files(tmp_path / 'labels.png')
    page.wait_for_function('painter.canvas.width == 12')
    np.testing.assert_array_equal(labels_on_canvas(page), labels)
    upload.set_input_files(tmp_path / 'wrong.png')
    page.get_by_text('wrong.png has the labels [5, 6, 7]').wait_for()
    click(page, 'From segmentation')
    page.get_by_text('no image has been segmented yet').wait_for()
    click(page, 'Segment')
    page.get_by_text('there is no image to segment').wait_for()
    np.testing.assert_array_equal(labels_on_canvas(page), labels)


def test_listens_on_loopback_alone(address):
    port = int(address.rstrip('/').rpartition(':')[2])
    table = Path('/proc/net/tcp')
    if not table.exists():
        pytest.skip('there is no /proc/net/tcp')
    rows = [row.split() for row in table.read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == '0A']
    assert [place for place in listening
            if place.endswith(f':{port:04X}')] == [f'0100007F:{port:04X}']
