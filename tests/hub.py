"""What push_to_hub and from_pretrained ask of the Hugging Face Hub, over HTTP.

A stand-in on this machine with the routes that they use, for one model. It takes
small files alone, within the commit, as the hub does below its limit.
"""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

SHA = 'c' * 40


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def answer(self, code=200, body=b'', **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers['Content-Type'] = 'application/json'
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key.replace('_', '-'), value)
        if 'Content-Length' not in headers:
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def do_POST(self):
        hub, path = self.server, self.path.split('?')[0]
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        hub.asked.append(f'POST {path}')
        if path == '/api/repos/create':
            asked = json.loads(body)
            hub.repo = f"{asked['organization']}/{asked['name']}"
            # Older clients and newer ones.
            hub.private = asked.get('private') or asked.get('visibility') == 'private'
            self.answer(body=dict(url=f'{hub.url}/{hub.repo}'))
        elif path == '/api/validate-yaml':
            self.answer(body=dict(errors=[], warnings=[]))
        elif path == f'/api/models/{hub.repo}/preupload/main':
            self.answer(body=dict(files=[
                dict(path=file['path'], uploadMode='regular', shouldIgnore=False)
                for file in json.loads(body)['files']
            ]))
        elif path == f'/api/models/{hub.repo}/commit/main':
            for line in map(json.loads, body.splitlines()):
                if line['key'] == 'file':
                    file = line['value']
                    hub.files[file['path']] = base64.b64decode(file['content'])
            self.answer(body=dict(
                success=True, commitOid=SHA,
                commitUrl=f'{hub.url}/{hub.repo}/commit/{SHA}'))
        else:
            self.answer(404)

    def do_GET(self):
        hub, path = self.server, self.path.split('?')[0]
        hub.asked.append(f'{self.command} {path}')
        found = re.fullmatch(f'/{hub.repo}/resolve/[^/]+/(.*)', path)
        data = hub.files.get(found[1]) if found else None
        if re.match(f'/api/models/{hub.repo}/tree/', path):
            self.answer(body=[
                dict(type='file', path=name, size=len(content),
                     oid=hashlib.sha1(content).hexdigest())
                for name, content in hub.files.items()
            ])
        elif path.startswith(f'/api/models/{hub.repo}'):
            self.answer(body=dict(
                id=hub.repo, sha=SHA,
                siblings=[dict(rfilename=name) for name in hub.files]))
        elif data is not None:
            self.answer(
                body=data, ETag=f'"{hashlib.sha1(data).hexdigest()}"',
                X_Repo_Commit=SHA)
        elif found:
            self.answer(404, X_Error_Code='EntryNotFound')
        else:
            self.answer(404, X_Error_Code='RepoNotFound')

    do_HEAD = do_GET


@contextmanager
def hub():
    """Serve; gives ``url``, ``repo``, ``private``, ``files`` and what was ``asked``."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    server.url = f'http://127.0.0.1:{server.server_address[1]}'
    server.repo, server.private, server.files, server.asked = 'none', None, {}, []
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
