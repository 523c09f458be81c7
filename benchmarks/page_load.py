"""Let users press Synthesise on the web page at the same time, on this machine.

Start ``tools/demo_app.py`` and give its address:

    python benchmarks/page_load.py http://127.0.0.1:7860 --users 20 --seconds 60

Every user sends the mask of a canvas, waits for its one picture, and asks again.
A queue that is full is no error: the user waits a second. Printed are requests,
errors, the median and 95th percentile of the seconds from asking to the picture, and
how often users were served, fewest and most; with ``--pid`` of the server also its
memory. Errors make it exit with 1.
"""

import argparse
import base64
import json
import re
import struct
import sys
import threading
import time
import uuid
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Dict, List, Optional
from urllib.request import ProxyHandler, Request, build_opener

OPENER = build_opener(ProxyHandler({}))


def ask(address: str, path: str, body: Optional[dict] = None) -> str:
    """Send a request, with JSON if there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(address + path, data, {'Content-Type': 'application/json'})
    with OPENER.open(request, timeout=600) as answer:
        return answer.read().decode()


def black_mask(height: int, width: int) -> str:
    """Write a black PNG, gray, as the data URL of a canvas."""
    found = b'\x89PNG\r\n\x1a\n'
    for name, chunk in (
            (b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)),
            (b'IDAT', zlib.compress(bytes((width + 1) * height))), (b'IEND', b'')):
        found += struct.pack('>I', len(chunk)) + name + chunk + struct.pack(
            '>I', zlib.crc32(name + chunk))
    return f'data:image/png;base64,{base64.b64encode(found).decode()}'


class User(threading.Thread):
    """One who asks again and again until a time.

    Args:
        address (str): The page.
        call (int): Number of what Synthesise calls.
        data (list): What the controls hold.
        end (float): When to stop, of ``time.monotonic``.
    """

    def __init__(self, address: str, call: int, data: list, end: float) -> None:
        super().__init__()
        self.address, self.end = address, end
        self.body = dict(fn_index=call, data=data, session_hash=uuid.uuid4().hex)
        self.latencies: List[float] = []
        self.counts: Dict[str, int] = dict(full=0, errors=0)

    def run(self) -> None:
        """Ask until the end."""
        while time.monotonic() < self.end:
            start = time.monotonic()
            try:
                ask(self.address, '/gradio_api/queue/join', self.body)
                text = ask(self.address, '/gradio_api/queue/data?session_hash='
                           + self.body['session_hash'])
            except (OSError, HTTPException) as error:
                full = getattr(error, 'code', None) == 503
                self.counts['full' if full else 'errors'] += 1
                time.sleep(1)
                continue
            done = [json.loads(line[5:]) for line in text.splitlines()
                    if 'process_completed' in line]
            if done and done[0]['success']:
                self.latencies.append(time.monotonic() - start)
            else:
                self.counts['errors'] += 1


def memory(pid: int) -> int:
    """Tell how many MB of memory a process of this machine has."""
    status = Path(f'/proc/{pid}/status').read_text()
    return int(re.search(r'VmRSS:\s*(\d+)', status)[1]) // 1024


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('address')
    parser.add_argument('--users', type=int, default=20)
    parser.add_argument('--seconds', type=float, default=60)
    parser.add_argument('--steps', type=int, default=1)
    parser.add_argument('--size', type=int, nargs=2, default=(64, 96))
    parser.add_argument('--pid', type=int, help='of the server, under Linux')
    args = parser.parse_args()
    address = args.address.rstrip('/')
    config = json.loads(ask(address, '/config'))
    button = next(part['id'] for part in config['components']
                  if part['props'].get('value') == 'Synthesise')
    call = next(call for call in config['dependencies']
                if [button, 'click'] in call['targets'])
    solver = next(part['props']['value'] for part in config['components']
                  if part['id'] == call['inputs'][1])
    data = [black_mask(*args.size), solver, args.steps, 0, False, 1]
    end = time.monotonic() + args.seconds
    users = [User(address, call['id'], data, end) for _ in range(args.users)]
    megabytes = [memory(args.pid)] if args.pid else []
    for user in users:
        user.start()
    while any(user.is_alive() for user in users):
        time.sleep(1)
        megabytes += [memory(args.pid)] if args.pid else []
    latencies = sorted(value for user in users for value in user.latencies)
    served = [len(user.latencies) for user in users]
    full, errors = (sum(user.counts[k] for user in users) for k in ('full', 'errors'))
    print(f'{args.users} users, {args.seconds:g} s: {len(latencies)} pictures, '
          f'{full} times full, {errors} errors')
    if latencies:
        print(f'seconds: median {latencies[len(latencies) // 2]:.2f}, p95 '
              f'{latencies[int(0.95 * (len(latencies) - 1))]:.2f}')
    print(f'served: {min(served)} to {max(served)} times each')
    if megabytes:
        print(f'MB of the server: {megabytes[0]} at first, '
              f'{megabytes[len(megabytes) // 2]} at half, {megabytes[-1]} in the end, '
              f'at most {max(megabytes)}')
    sys.exit(bool(errors))


if __name__ == '__main__':
    main()
