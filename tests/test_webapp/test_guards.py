"""The page before strangers: what they send, see, and can do to each other."""

import asyncio
import http.client
import json
import os
import re
import socket
import threading
import time
import uuid
from contextlib import contextmanager
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from mmengine import Config

from fuzzing import bombs
from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.apis.checkpoint_conversion import checkpoint_to_folder
from mmseg_semflow.export.graph import export_segmentor
from mmseg_semflow.export.pipeline import SemFlowPipeline
from mmseg_semflow.webapp import app as webapp
from mmseg_semflow.webapp.markup import brush_colours, from_url, paint, to_url
from tiny import META, TEST_PIPELINE, save_checkpoint, segmentor_cfg

pytest.importorskip('gradio')
COLOURS = brush_colours(META['palette'])
CANVAS = to_url(paint(np.arange(48).reshape(6, 8) % 5, COLOURS))
SECRET = 'of somebody else'


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp('guards')
    Config(
        dict(
            default_scope='mmseg', model=segmentor_cfg(), crop_size=(24, 32),
            test_pipeline=TEST_PIPELINE)).dump(root / 'config.py')
    save_checkpoint(root / 'semflow.pth')
    return root / 'config.py', root / 'semflow.pth'


@pytest.fixture(scope='module')
def inferencer(files):
    return SemFlowInferencer(*files, 'cpu', channel_order='rgb')


@contextmanager
def serving(inferencer, folder, **kwargs):
    """Serve the page from a thread, and give its address."""
    import uvicorn
    before = os.environ.get('GRADIO_TEMP_DIR')
    os.environ['GRADIO_TEMP_DIR'] = str(folder)
    app = webapp.build_app(inferencer, **kwargs)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level='critical', timeout_graceful_shutdown=1))
    with socket.create_server(('127.0.0.1', 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener], ))
        thread.start()
        try:
            yield '127.0.0.1', listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)
            os.environ.pop('GRADIO_TEMP_DIR')
            if before is not None:
                os.environ['GRADIO_TEMP_DIR'] = before


@pytest.fixture(scope='module')
def place(inferencer, tmp_path_factory):
    """The page; beside its folder of uploads lies a secret."""
    root = tmp_path_factory.mktemp('served')
    (root / 'secret.txt').write_text(SECRET)
    (root / 'uploads').mkdir()
    with serving(inferencer, root / 'uploads') as address:
        yield address


class Visitor:
    """Talks to the page as a browser does, without one."""

    def __init__(self, address):
        self.address, self.session = address, uuid.uuid4().hex
        self.cookie = ''

    def ask(self, path, body=None, method=None, **headers):
        """Send a path as it is, which libraries would tidy up."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        connection.putrequest(method or ('GET' if body is None else 'POST'), path,
                              skip_accept_encoding=True, skip_host='Host' in headers)
        headers.setdefault('Content-Type', 'application/json')
        if body is not None and 'Content_Length' not in headers:
            headers['Content_Length'] = str(len(body))
        if self.cookie:
            headers['Cookie'] = self.cookie
        for name, value in headers.items():
            connection.putheader(name.replace('_', '-'), value)
        connection.endheaders()
        if body is not None:
            connection.send(body)
        answer = connection.getresponse()
        found = answer.read()
        self.answered = answer
        connection.close()
        return answer.status, found.decode(errors='replace')

    @property
    def calls(self):
        """Tell the numbers of what buttons call."""
        config = json.loads(self.ask('/config')[1])
        labels = {
            part['id']: part['props'].get('value') or part['props'].get('label')
            for part in config['components']
        }
        found = {}
        for call in config['dependencies']:
            for target, event in call['targets']:
                if event in ('click', 'change', 'upload'):
                    found.setdefault(labels.get(target), call['id'])
        return found

    def upload(self, data, name='a.png'):
        edge = 'edge'
        body = (f'--{edge}\r\nContent-Disposition: form-data; name="files"; '
                f'filename="{name}"\r\n\r\n').encode() + data + (
                    f'\r\n--{edge}--\r\n').encode()
        status, text = self.ask(
            '/gradio_api/upload', body,
            Content_Type=f'multipart/form-data; boundary={edge}')
        assert status == 200, text
        return dict(path=json.loads(text)[0], meta={'_type': 'gradio.FileData'})

    def join(self, button, data):
        """Ask for what a button does; what comes of it is told by wait."""
        call = self.calls[button] if isinstance(button, str) else button
        return self.ask('/gradio_api/queue/join', json.dumps(
            dict(fn_index=call, data=data, session_hash=self.session)).encode())

    def wait(self):
        """Read until the call has ended."""
        text = self.ask(f'/gradio_api/queue/data?session_hash={self.session}')[1]
        done, = [json.loads(line[len('data:'):]) for line in text.splitlines()
                 if 'process_completed' in line]
        return done

    def press(self, button, data):
        status, text = self.join(button, data)
        assert status == 200, text
        return self.wait()


@pytest.fixture
def visitor(place):
    return Visitor(place)


def png(pixels):
    return cv2.imencode('.png', pixels)[1].tobytes()


def segment(visitor, **changed):
    image = visitor.upload(png(np.full((6, 8, 3), 99, np.uint8)))
    how = dict(image=image, solver='euler', steps=1, with_path=False) | changed
    return visitor.press('Segment', list(how.values()))


def synthesis(**changed):
    how = dict(canvas=CANVAS, solver='euler', steps=1, seed=0, with_path=False,
               samples=1) | changed
    return list(how.values())


# What is sent.


def test_what_is_too_large_is_refused_by_its_size(visitor):
    status, text = visitor.ask(
        '/gradio_api/upload', b'', Content_Length=str(10**12),
        Content_Type='multipart/form-data; boundary=a')
    assert status == 413 and '33,554,432 bytes' in text


@pytest.mark.parametrize('told', [True, False])
def test_a_body_is_counted(told):
    """Whether its size was told, as of the rest of a body that comes in pieces."""
    pieces = [b'12345', b'678', b'9']
    read = []

    async def application(scope, receive, send):
        while (message := await receive())['type'] == 'http.request':
            read.append(message['body'])

    async def receive():
        return dict(type='http.request', body=pieces.pop(0))

    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b'content-length', b'9')] if told else []
    asyncio.run(webapp._BoundedBody(application, 8)(
        dict(type='http', headers=headers), receive, send))
    assert read == ([] if told else [b'12345', b'678'])
    assert [m.get('status') for m in sent] == ([413, None] if told else [])


@pytest.mark.parametrize('name', sorted(bombs()))
def test_pictures_are_measured_before_they_are_decoded(name, inferencer, tmp_path):
    import gradio
    actions = webapp._Actions(inferencer, 60)
    path = tmp_path / name
    path.write_bytes(bombs()[name])
    with pytest.raises(gradio.Error, match=f'{name} .*(at most 4096|exceeds limit)'):
        actions.uploaded_mask(str(path))
    with pytest.raises(gradio.Error, match=f'{name} .*(at most 4096|exceeds limit)'):
        actions.read_image(gradio.FileData(path=str(path)))


def test_a_picture_of_more_rows_than_a_mask_may_have(visitor):
    image = visitor.upload(png(np.zeros((4097, 1, 3), np.uint8)), 'tall.png')
    done = segment(visitor, image=image)
    assert not done['success']
    assert 'tall.png must have at most 4096 rows' in done['output']['error']


@pytest.mark.parametrize('side', [4, 5])
def test_a_canvas_is_measured_before_it_is_decoded(side):
    url = to_url(np.zeros((side, 2, 3), np.uint8))
    if side == 4:
        assert from_url(url, 4).shape == (4, 2, 3)
        return
    with pytest.raises(ValueError, match='canvas must have at most 4 rows .* 5 and 2'):
        from_url(url, 4)


# What is seen.


@pytest.mark.parametrize('path', [
    '{uploads}/../secret.txt', '{root}/secret.txt', '/etc/passwd',
    '..%2f..%2f..%2fetc%2fpasswd', '%2e%2e/%2e%2e/secret.txt', '....//secret.txt',
    '{uploads}//..//secret.txt', '{uploads}%2f..%2fsecret.txt', 'file:///etc/passwd',
    '{uploads}/link', '{uploads}\\..\\secret.txt', '{uploads}/%00/../../secret.txt'])
def test_only_its_own_files_are_fetched(path, visitor, place):
    uploads = visitor.upload(b'mine', 'own.txt')['path'].rpartition('/')[0]
    uploads = uploads.rpartition('/')[0]
    root = uploads.rpartition('/')[0]
    if not os.path.lexists(f'{uploads}/link'):
        os.symlink(f'{root}/secret.txt', f'{uploads}/link')
    path = path.format(uploads=uploads, root=root)
    for route in ('/gradio_api/file=', '/file=', '/gradio_api/file/', '/static/',
                  '/assets/', '/gradio_api/stream/', '/gradio_api/proxy=', '/'):
        status, text = visitor.ask(f'{route}{path}')
        assert SECRET not in text and 'root:' not in text, (route, path)
        assert status >= 300 or route == '/', (route, path, status)


def test_sessions_do_not_see_each_other(place, inferencer):
    one, other = Visitor(place), Visitor(place)
    assert segment(one)['success']
    assert one.press('From segmentation', [None])['success']
    done = other.press('From segmentation', [None])
    assert not done['success']
    assert 'no image has been segmented yet' in done['output']['error']


def test_a_mask_that_was_not_uploaded(visitor):
    done = segment(visitor, image=dict(
        path='/etc/hostname', meta={'_type': 'gradio.FileData'}))
    assert not done['success'] and 'root' not in json.dumps(done)


# What they can do to each other.


def test_a_crash_leaves_the_rest_alone(place, inferencer, monkeypatch):
    def crash(*_, **__):
        raise RuntimeError('of /home/somebody')

    monkeypatch.setattr(inferencer, 'segment', crash)
    done = segment(Visitor(place))
    assert not done['success'] and 'somebody' not in json.dumps(done)
    monkeypatch.undo()
    assert segment(Visitor(place))['success']


def test_a_full_queue_says_so(place, inferencer, monkeypatch):
    """One works, twenty wait, the next is told; then all are served in order."""
    go, served, original = threading.Event(), [], inferencer.synthesize

    def slow(*args, **kwargs):
        served.append(kwargs['seed'])
        go.wait(60)
        return original(*args, **kwargs)

    monkeypatch.setattr(inferencer, 'synthesize', slow)
    visitors = [Visitor(place) for _ in range(webapp.MAX_WAITING + 2)]
    button = visitors[0].calls['Synthesise']
    for number, visitor in enumerate(visitors[:-1]):
        status, text = visitor.join(button, synthesis(seed=number))
        assert status == 200, text
        end = time.monotonic() + 30
        while not served and time.monotonic() < end:  # the first leaves the queue
            time.sleep(0.05)
    status, text = visitors[-1].join(button, synthesis())
    assert status == 503 and 'Queue is full' in text
    go.set()
    assert all(visitor.wait()['success'] for visitor in visitors[:-1])
    assert served == list(range(len(visitors) - 1))


def test_more_than_the_controls_offer(visitor):
    for changed in (dict(steps=10**6), dict(samples=10**6), dict(solver='none'),
                    dict(steps='many'), dict(seed=[1])):
        assert not visitor.press('Synthesise', synthesis(**changed))['success'], changed
    assert visitor.press('Synthesise', synthesis())['success']


@pytest.fixture(scope='module')
def guarded(inferencer, tmp_path_factory):
    """The page for one user, a moment for each request, and behind a proxy."""
    with serving(inferencer, tmp_path_factory.mktemp('guarded'), seconds=0.,
                 login=('lab', 'word'), root_path='/semflow') as address:
        yield address
    # All apps here share a model, which only this one stops.
    inferencer.semflow.network._forward_pre_hooks.clear()


def login(visitor, password='word'):
    status, text = visitor.ask(
        '/login', f'username=lab&password={password}'.encode(),
        Content_Type='application/x-www-form-urlencoded')
    cookies = visitor.answered.headers.get_all('Set-Cookie') or []
    visitor.cookie = '; '.join(cookie.split(';')[0] for cookie in cookies)
    return status


def test_nothing_without_the_password(guarded):
    visitor = Visitor(guarded)
    for path, body in (('/config', None), ('/gradio_api/info', None),
                       ('/gradio_api/upload', b'x'),
                       ('/gradio_api/file=/etc/passwd', None),
                       ('/gradio_api/queue/join', b'{"fn_index": 1, "data": []}')):
        status, text = visitor.ask(path, body)
        assert status in (401, 403, 422), (path, status, text[:200])
    assert login(visitor, 'wrong') == 400 and not visitor.cookie
    assert login(visitor) == 200
    assert visitor.ask('/config')[0] == 200


def test_behind_a_proxy_with_a_sub_path(guarded):
    visitor = Visitor(guarded)
    login(visitor)
    config = json.loads(visitor.ask('/config', Host='lab.example')[1])
    assert urlsplit(config['root']).path == '/semflow'
    page = visitor.ask('/', Host='lab.example')[1]
    # What the browser loads lies below it, or is named relative to the page; but for
    # gradio's manifest, of pages that are installed as an app.
    for found in set(re.findall(r'(?:src|href)="([^"]+)"', page)) - {'/manifest.json'}:
        assert not found.startswith('/') or found.startswith('/semflow'), found


def test_a_request_has_its_time(guarded):
    visitor = Visitor(guarded)
    login(visitor)
    done = segment(visitor)
    assert not done['success']
    assert 'longer than the 0 seconds' in done['output']['error']


# From an exported file, which holds the segmentation alone.


@pytest.fixture(scope='module')
def exported(files, tmp_path_factory):
    root = tmp_path_factory.mktemp('exported')
    checkpoint_to_folder(*files, root / 'folder')
    export_segmentor(
        SemFlowPipeline.from_pretrained(root / 'folder'), root / 'street.pt2')
    return SemFlowInferencer(root / 'street.pt2', channel_order='rgb')


def test_a_page_of_an_exported_file(exported, tmp_path, monkeypatch):
    shown = []
    segment_picture = exported.segment
    monkeypatch.setattr(
        exported, 'segment',
        lambda image, **how: shown.append(segment_picture(image, **how)) or shown[-1])
    with serving(exported, tmp_path) as address:
        visitor = Visitor(address)
        calls, text = visitor.calls, visitor.ask('/config')[1]
        assert 'Segment' in calls
        assert not calls.keys() & {'Synthesise', 'Empty mask', 'From segmentation'}
        assert 'synthesis needs the config and the checkpoint' in text
        assert 'street.pt2' in text and str(exported.exported.path) not in text
        image = visitor.upload(png(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)))
        done = segment(visitor, image=image, steps=2)
        assert done['success'] and len(shown) == 1, done
        painted = re.findall(
            r'data:image/png;base64,[\w+/=]+', done['output']['data'][1])[1]
        np.testing.assert_array_equal(from_url(painted), paint(shown[0], COLOURS))
        # What the controls do not offer is told without the place of the file.
        for changed, told in ((dict(steps=3), 'was exported with num_steps=2'),
                              (dict(steps=2), 'takes pictures whose sides are')):
            done = segment(visitor, **changed)
            assert not done['success']
            assert done['output']['error'].startswith(f'street.pt2 {told}')


def test_the_tool_takes_an_exported_file(files, exported, call_tool, monkeypatch):
    served = []
    monkeypatch.setattr(
        webapp, 'serve', lambda inferencer, *_, **__: served.append(inferencer))
    file = exported.exported.path
    call_tool('demo_app.py', file)
    assert served.pop().exported.path == file
    said = call_tool('demo_app.py', files[0], fails=True)
    assert 'error: a config needs a checkpoint' in said and not served


def test_a_request_of_an_exported_file_has_its_time(exported, tmp_path):
    with serving(exported, tmp_path, seconds=0.) as address:
        visitor = Visitor(address)
        done = segment(visitor, image=visitor.upload(png(np.zeros((8, 8, 3)))), steps=2)
    exported.exported.graph._forward_pre_hooks.clear()
    assert 'longer than the 0 seconds' in done['output']['error']


@pytest.mark.parametrize('host, public', [
    ('127.0.0.1', False), ('localhost', False), ('::1', False), ('127.8.8.8', False),
    ('0.0.0.0', True), ('::', True), ('192.168.0.4', True), ('lab.example', True)])
def test_addresses_that_others_reach(host, public):
    assert webapp.is_public(host) == public


def test_a_warning_for_all_but_loopback(capsys, monkeypatch):
    import uvicorn
    monkeypatch.setattr(uvicorn.Server, 'run', lambda *_, **__: None)
    for host, warned in (('127.0.0.1', False), ('0.0.0.0', True)):
        webapp._serve(lambda *_: None, host, 0)
        assert ('warning: 0.0.0.0 can be reached' in capsys.readouterr().out) == warned


def test_the_folder_of_uploads_goes_with_the_page(inferencer, monkeypatch):
    found = []

    def serve(app, host, port):
        found.append(os.environ['GRADIO_TEMP_DIR'])
        assert os.stat(found[0]).st_mode & 0o77 == 0

    monkeypatch.setenv('GRADIO_TEMP_DIR', '/elsewhere')
    monkeypatch.setattr(webapp, 'build_app', lambda *_, **__: None)
    monkeypatch.setattr(webapp, '_serve', serve)
    webapp.serve(inferencer)
    assert not os.path.exists(found[0])
