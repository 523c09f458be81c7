"""Names of the recipes: what they promise, where they lead, what lists them."""

import argparse
import re

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.fileio import load as load_file
from mmengine.registry import MODELS as ROOT_MODELS
from shipped import COMPARED, CONFIGS, ROOT, SHORT_NAMES, load, read, shrink
from yapf.yapflib.yapf_api import FormatCode

RECIPES = sorted(
    f'semflow/{path.stem}' for path in (CONFIGS / 'semflow').glob('*.py'))
METAFILE = load_file(CONFIGS / 'semflow/metafile.yml')
MODELS = {model['Alias']: model for model in METAFILE['Models']}
# {algorithm}_{networks}_{GPUs}xb{batch}-{iterations}_{data}-{height}x{width}
NAME = re.compile(r'semflow_(sd15(?:-source|-lora)?|sd21|sdxl|sd35-medium|sana|'
                  r'flux1-dev-lora|flux2-klein-lora|'
                  r'tiny-unet|taef2-unet)_'
                  r'(?P<gpus>\d+)xb(?P<batch>\d+)-'
                  r'(?P<iters>\d+)(?P<thousands>k?)_(?P<data>[a-z0-9-]+)-'
                  r'(?P<size>\d+x\d+)(_(?P<variant>[a-z-]+))?')


@pytest.mark.parametrize('name', RECIPES)
def test_the_name_is_true(name):
    parts = NAME.fullmatch(name.removeprefix('semflow/'))
    cfg = read(name)
    assert cfg.train_dataloader.batch_size == int(parts['batch'])
    assert cfg.train_cfg.max_iters == int(
        parts['iters']) * (1000 if parts['thousands'] else 1)
    height, width = map(int, parts['size'].split('x'))
    size = cfg.get('generate', {}).get('size') or cfg.synthesis.size
    assert tuple(size) == (height, width)
    assert ('sd_folder' in cfg) == ('-unet_' not in name)
    train_set = cfg.train_dataloader.dataset
    variant = dict(
        # Of TAEF2 there is no recipe that encodes in every iteration.
        cached=train_set.type == 'CachedLatentsDataset' and '_sd15_' in name,
        swapped=cfg.model.semflow.network.get('lora', {}).get('swap', False),
        generator=cfg.model.type == 'SemFlowGenerator',
        fsdp=cfg.get('strategy', {}).get('type') == 'PartialFSDPStrategy',
        deepspeed=cfg.get('strategy', {}).get('type') == 'DeepSpeedStrategy')
    assert [key for key, found in variant.items() if found] == [
        key for key in variant if key == parts['variant']
    ]
    dataset = train_set.get('dataset', train_set).type.lower()
    assert parts['data'].split('-')[0] in dataset


def test_variants_stand_beside_their_recipe():
    for name in RECIPES:
        variant = NAME.fullmatch(name.removeprefix('semflow/'))['variant']
        if variant:
            base = name.removesuffix(f'_{variant}')
            between = RECIPES[RECIPES.index(base):RECIPES.index(name)]
            assert all(other.startswith(base) for other in between)


@pytest.mark.parametrize('short', SHORT_NAMES)
def test_a_short_name_leads_to_its_recipe(short):
    text = (CONFIGS / f'{short}.py').read_text()
    path = re.fullmatch(r"_base_ = '\./(semflow/\S+)\.py'\n", text)[1]
    assert path in RECIPES
    assert MODELS[short]['Config'] == f'configs/{path}.py'
    assert read(short).to_dict() == read(path).to_dict()


def test_the_metafile_lists_every_recipe():
    index = load_file(ROOT / 'model-index.yml')
    assert index['Import'] == ['configs/semflow/metafile.yml']
    assert sorted(MODELS) == SHORT_NAMES
    assert sorted(
        model['Config'] for model in METAFILE['Models']) == [
            f'configs/{name}.py' for name in RECIPES]
    collection, = METAFILE['Collections']
    assert (ROOT / collection['README']).is_file()
    for model in METAFILE['Models']:
        assert model['Config'] == f'configs/semflow/{model["Name"]}.py'
        assert model['In Collection'] == collection['Name']
        assert model['Metadata']['Training Data'] in collection['Metadata'][
            'Training Data']
        parts = NAME.fullmatch(model['Name'])
        assert model['Metadata']['Batch Size'] == int(parts['gpus']) * int(
            parts['batch'])
        assert 'Weights' not in model


def rows_of(alias):
    """Give the cells of all rows of our tables that begin with a config."""
    for page in ('README.md', 'docs/results.md'):
        for line in (ROOT / page).read_text().splitlines():
            cells = [cell.strip() for cell in line.split('|')[1:-1]]
            if cells and re.search(rf'`{alias}(\.py)?`', cells[0]):
                yield cells


FIGURES = [(alias, result['Task'], key, value)
           for alias, model in MODELS.items()
           for result in model.get('Results', ())
           for key, value in result['Metrics'].items()]


@pytest.mark.parametrize('alias, task, key, value', FIGURES)
def test_figures_of_the_metafile_are_those_of_our_tables(
        alias, task, key, value):
    assert any(str(value) in cells for cells in rows_of(alias)), (key, value)
    assert task == ('Semantic Segmentation'
                    if key == 'mIoU' else 'Semantic Image Synthesis')


def test_measured_recipes_have_figures():
    measured = {alias for alias in SHORT_NAMES if any(rows_of(alias))}
    assert {alias for alias, *_ in FIGURES} <= measured
    assert {'semflow_toy', 'semflow_camvid', 'semflow_generator_toy',
            'semflow_camvid_paper_objective', 'semflow_camvid_taef2'} == {
                alias for alias, *_ in FIGURES}


def test_a_dumped_config_is_the_same(tmp_path, monkeypatch):
    """Training writes it to the work folder, where it is used again."""
    monkeypatch.setattr('mmengine.config.config.FormatCode', FormatCode)
    for name in ('semflow_generator_cityscapes', 'comparison/spade_camvid'):
        path = tmp_path / 'dumped.py'
        read(name).dump(path)
        again = Config.fromfile(path, import_custom_modules=False)
        assert again.to_dict() == read(name).to_dict()


@pytest.mark.parametrize('name', [*SHORT_NAMES, *COMPARED])
def test_every_config_chooses_the_runtime(name):
    imports = read(name).custom_imports
    assert 'mmseg_semflow.runtime' in imports.imports
    assert not imports.allow_failed_imports


def amplitudes(part, keys=()):
    """Give all amplitudes in a config and where they stand."""
    items = part.items() if isinstance(part, dict) else enumerate(part)
    for key, value in items:
        if key == 'amplitude':
            yield '.'.join(map(str, (*keys, key))), value
        elif isinstance(value, (dict, list, tuple)):
            yield from amplitudes(value, (*keys, key))


@pytest.mark.parametrize('name', [
    *SHORT_NAMES, *(name for name in COMPARED
                    if 'semflow' in read(name).model)])
def test_the_codec_stands_once(name):
    cfg = read(name).to_dict()
    # A variable of the config file, which nothing reads.
    cfg.pop('codec')
    assert [key for key, _ in amplitudes(cfg)] == [
        'model.semflow.codec.amplitude'
    ]


@pytest.mark.parametrize('name', ['semflow_toy', 'semflow_generator_toy'])
def test_one_option_changes_the_codec(name):
    """By the parser of mmsegmentation's tools, in training and synthesis."""
    if 'generator' in name:
        pytest.importorskip('mmagic')
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    cfg = shrink(load(name))
    cfg.merge_from_dict(
        parser.parse_args(
            ['--cfg-options',
             'model.semflow.codec.amplitude=10']).cfg_options)
    with ROOT_MODELS.switch_scope_and_registry(cfg.default_scope) as models:
        model = models.build(cfg.model)
    labels = torch.randint(0, 8, (1, 64, 96))
    codec = model.semflow.codec
    levels = codec.normalize(codec.encode(labels))
    moved = 127.5 * (model.semflow.perturbed_masks(labels) - levels).abs().max()
    # Of a grain few values are drawn.
    assert 9 < moved <= 10 + 1e-4
    if 'generator' in name:
        assert model.synthesizer().amplitude == 10
