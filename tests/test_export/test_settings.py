"""What the settings of a folder and its card say, and what is refused."""

import json

import pytest

from exported import recipe
from mmseg_semflow.export.model_card import model_card
from mmseg_semflow.export.preparation import Preparation
from mmseg_semflow.export.settings import settings_of
from mmseg_semflow.flow import PseudoMaskCodec

META = dict(classes=('a', 'b|c'), palette=[[0, 0, 0], [255, 0, 7]])


@pytest.fixture
def cfg():
    cfg = recipe('semflow_toy')
    cfg.model.semflow.network.update(sd_folder='/mine', unet_weights='w.pt')
    return cfg


def test_training_leaves_no_trace(cfg):
    settings = settings_of(cfg, META, 'the config')
    assert settings == json.loads(json.dumps(settings))
    assert '/mine' not in str(settings) and 'w.pt' not in str(settings)
    assert not {'losses', 'partial_load'} & settings['model'].keys()
    assert settings['model']['codec'] == json.loads(json.dumps(cfg.codec))
    assert settings['synthesis'] == json.loads(json.dumps(cfg.synthesis))
    assert settings['synthesis']['num_steps'] == 2
    assert settings['segmentation']['num_steps'] == 1
    # A generator, whose pipeline prepares masks.
    cfg.model = dict(type='SemFlowGenerator', semflow=cfg.model.semflow)
    assert settings_of(cfg, META, 'the config')['segmentation'] is None


RESIZE = dict(type='Resize', scale=(8, 8))


@pytest.mark.parametrize('pipeline, match', [
    ([dict(type='mmseg.CLAHE')],
     "test_pipeline of my.py has 'CLAHE', which cannot be exported: it may have "),
    ([dict(type='Resize', scale_factor=2.)],
     r"Resize in the test_pipeline of my.py .* with \['scale_factor'\]"),
    ([RESIZE, RESIZE], 'test_pipeline of my.py has Resize twice'),
    ([dict(RESIZE, interpolation='area')], "interpolation='area' of Resize"),
    ([dict(RESIZE, backend='tiff')], "backend='tiff' of Resize"),
    ([dict(type='LoadImageFromFile', to_float32=True)], 'LoadImageFromFile in the'),
])
def test_preparations_that_are_not_known(cfg, pipeline, match):
    cfg.test_dataloader.dataset.pipeline = pipeline
    with pytest.raises(ValueError, match=match):
        settings_of(cfg, META, 'my.py')


def test_the_pipeline_is_that_of_the_test_loader(cfg):
    """As in mmsegmentation's tools/test.py; one number is a square, as in mmcv."""

    def resize():
        return settings_of(cfg, META, 'my.py')['segmentation']['preparation']['resize']

    cfg.test_pipeline = [dict(type='Resize', scale=8)]
    cfg.test_dataloader.dataset.pipeline = [dict(type='Resize', scale=(9, 6))]
    assert resize()['scale'] == [9, 6]
    dataset = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(
        type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[dataset]))
    assert resize()['scale'] == [9, 6]
    cfg.pop('test_dataloader')
    assert resize()['scale'] == [8, 8]
    Preparation(resize())


def test_configs_that_do_not_say(cfg):
    cfg.model.data_preprocessor.test_cfg = dict(batch=2)
    with pytest.raises(ValueError, match=r"test_cfg of my.py must have .* \['batch'\]"):
        settings_of(cfg, META, 'my.py')
    cfg.model.data_preprocessor.test_cfg = None
    cfg.synthesis = dict(style=print)
    with pytest.raises(ValueError, match='my.py has a builtin_function_or_method'):
        settings_of(cfg, META, 'my.py')
    cfg.pop('test_pipeline')
    cfg.pop('test_dataloader')
    with pytest.raises(ValueError, match='my.py has no test_pipeline'):
        settings_of(cfg, META, 'my.py')


def test_the_card_says_all(cfg):
    settings = settings_of(cfg, META, 'the config')
    settings['model']['codec'].update(num_classes=2, codes=[0, 4])
    settings['segmentation']['preparation']['resize'] = dict(
        scale=[336, 256], keep_ratio=False)
    text = model_card(settings, 'street', '`Toy`', 'mit', '| mIoU |\n\n101 images')
    head, _, body = text.partition('\n---\n')
    assert head.splitlines()[1:3] == ['library_name: "diffusers"', 'license: "mit"']
    assert r'| 1 | b\|c | (255, 0, 7) | (254, 0, 0) |' in body
    assert 'pictures at 336x256 (width x height), by 1 steps' in body
    for part in ('`Toy`', '| mIoU |\n\n101 images', '## Licence\n\nmit',
                 "from_pretrained('street')"):
        assert part in body
    # The codec of the card is that of the model.
    codec = json.loads(body.split('```json\n')[1].split('```')[0])
    assert PseudoMaskCodec(**codec).levels.tolist() == [[0, 0, 0], [254, 0, 0]]
    silent = model_card(dict(settings, segmentation=None), 'street')
    assert silent.count('Not said.') == 3 and 'license' not in silent
    assert 'does not segment' in silent
