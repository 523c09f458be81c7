"""Fixtures that the tests share."""

import gc
import os
import socket
from functools import cache

# Before torch is loaded: two threads beside another process stall each other.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# Before OpenCV is, as tools do it.
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(2**28))
# Before onnxruntime is, which tells its makers of every start.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')

import mmengine.config.config  # noqa: E402
import mmengine.runner.runner  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402

# As configs do: mmengine then reads checkpoints safely and writes them whole.
import mmseg_semflow  # noqa: E402, F401
import mmseg_semflow.runtime  # noqa: E402, F401
from tiny import write_street  # noqa: E402

# Every Runner has yapf format its config, several times and for longer than it
# trains, and asks compilers for their versions; every dataset of mmengine collects
# garbage, of which modules are none; for each `mmseg::` in a config mmengine reads
# all metafiles of mmsegmentation.
mmengine.config.config.FormatCode = lambda text, **_: (text, True)
mmengine.runner.runner.collect_env = dict
gc.freeze()
Config._get_cfg_path = staticmethod(cache(Config._get_cfg_path))


@pytest.fixture(autouse=True)
def _setup():
    init_default_scope('mmseg')
    torch.manual_seed(0)
    np.random.seed(0)


REACHED = []
_connect, _look_up = socket.socket.connect, socket.getaddrinfo


def _is_here(host):
    return host in (None, '', 'localhost', socket.gethostname()) or \
        str(host).startswith('127.') or host in ('::1', '0.0.0.0', '::')


def _connect_here(self, address):
    """Connect within this machine alone."""
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
        REACHED.append(address)
        raise ConnectionRefusedError(f'a test may not connect to {address}')
    return _connect(self, address)


def _look_up_here(host, *args, **kwargs):
    if not _is_here(host.decode() if isinstance(host, bytes) else host):
        REACHED.append(host)
        raise socket.gaierror(f'a test may not look up {host}')
    return _look_up(host, *args, **kwargs)


# From here on, imports included: nothing is downloaded that nobody asked for.
socket.socket.connect, socket.getaddrinfo = _connect_here, _look_up_here


@pytest.fixture(autouse=True)
def reached():
    """Fail what tried, also where a library carried on without."""
    yield REACHED
    reached, REACHED[:] = list(REACHED), []
    assert not reached, f'nobody asked to reach {reached}'


@pytest.fixture
def street(tmp_path):
    """A folder of small images and labels, see :func:`write_street`."""
    return write_street(tmp_path / 'street')


@pytest.fixture(scope='session')
def shared_street(tmp_path_factory):
    """The same folder for all tests that leave it as it is."""
    return write_street(tmp_path_factory.mktemp('shared') / 'street')


@pytest.fixture(scope='session')
def trunks(tmp_path_factory):
    """Networks of torchvision with random weights, and their files."""
    from torchvision.models import alexnet, vgg
    torch.manual_seed(1)
    layers = dict(
        alex=alexnet().features, vgg=vgg.make_layers(vgg.cfgs['D'], False))
    folder = tmp_path_factory.mktemp('trunks')
    for name, network in layers.items():
        torch.save({
            f'features.{key}': value
            for key, value in network.state_dict().items()
        }, folder / f'{name}.pth')
    return {name: (layers[name], str(folder / f'{name}.pth')) for name in layers}


@pytest.fixture(scope='session')
def alexnet_file(trunks):
    return trunks['alex'][1]


@pytest.fixture(scope='session')
def inception_file(tmp_path_factory):
    fidelity = pytest.importorskip(
        'torch_fidelity.feature_extractor_inceptionv3')
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fidelity, 'load_state_dict_from_url', lambda *args, **kwargs: {})
        patch.setattr(torch.nn.Module, 'load_state_dict', lambda *args: None)
        network = fidelity.FeatureExtractorInceptionV3('random', ['2048'])
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            # Else all features vanish.
            torch.nn.init.kaiming_normal_(layer.weight)
    path = tmp_path_factory.mktemp('weights') / 'inception.pth'
    torch.save(network.state_dict(), path)
    return path
