"""What :mod:`fuzzing` feeds with damaged files: every reader of the package."""

import hashlib
import io
import json
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Dict

import cv2
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from safetensors.torch import load_file, save
from test_networks.test_single_file import UNET64, build_parts, single_file
from torch import nn

from bases import PARTS, parts_of, write_base
from fuzzing import (
    Files,
    Target,
    change_header,
    change_json,
    change_json_file,
    checkpoints,
    parquets,
    pickled,
    pictures,
    tars,
    tensor_files,
    weights,
)
from mmseg_semflow.apis.inferencer import SemFlowInferencer
from mmseg_semflow.apis.loading import load_weights
from mmseg_semflow.datasets.cached_latents import LatentCache
from mmseg_semflow.datasets.file_tasks import read_pixels
from mmseg_semflow.datasets.unreadable import naming_damaged_files
from mmseg_semflow.export.pipeline import SemFlowPipeline
from mmseg_semflow.export.segmentor import NOTE, ExportedSegmentor
from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.generation.labelled_set import check_folder
from mmseg_semflow.networks.diffusers_folder import single_file_to_folder
from mmseg_semflow.networks.pretrained import load_part, load_unet_file, read_weights
from mmseg_semflow.safe_loading import load_from_local
from mmseg_semflow.synthesis.pictures import (
    has_colours,
    read_label_map,
    read_record,
    read_rgb,
    write_picture,
)
from tiny import CODEC, META, UNET, VAE, byte_vocabulary, semflow_cfg, write_sd_folder


def _alone(files: Dict[str, bytes]) -> Dict[str, Files]:
    """Let every input be a single file."""
    return {name: {name: data} for name, data in files.items()}


def _inputs_of(folder: Path) -> Dict[str, Files]:
    """Let all of a folder be one input."""
    return {
        'whole': {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob('*') if path.is_file()
        }
    }


def _check(right: bool) -> None:
    if not right:
        raise AssertionError('the result is not right')


def _picture_targets(scratch: Path) -> Dict[str, Target]:
    codec = PseudoMaskCodec(**CODEC)
    corpus = _alone(pictures())
    palette = META['palette']
    load_image, load_labels = (
        Compose([dict(type=name)])
        for name in ('LoadImageFromFile', 'LoadAnnotations'))
    # Reads without a model.
    inferencer = object.__new__(SemFlowInferencer)
    inferencer.channel_order = 'rgb'

    def valid(labels: torch.Tensor) -> None:
        _check(labels.dtype == torch.int64 and labels.ndim == 2)
        _check(bool(((labels >= 0) & (labels < 5) | (labels == 255)).all()))

    def palettes(path: Path) -> None:
        found = json.loads(path.read_text())
        try:
            valid(read_label_map(np.zeros((2, 3, 3), np.uint8), codec, found))
        except ValueError as error:
            _check('palette' in str(error))
            raise ValueError(f'{path}: {error}') from error

    def change_palette(rng: np.random.Generator, files: Files) -> Files:
        return {n: json.dumps(change_json(rng, json.loads(d))).encode()
                for n, d in files.items()}

    def label_map(path: Path) -> None:
        valid(read_label_map(path, codec))

    def coloured(path: Path) -> None:
        valid(read_label_map(path, codec, palette))

    def upload(path: Path) -> None:
        valid(read_label_map(path, codec, palette if has_colours(path) else None))

    def rgb(path: Path) -> None:
        _check_rgb(read_rgb(path))

    def bgr(path: Path) -> None:
        _check_rgb(inferencer._to_bgr(path))

    def _check_rgb(image: np.ndarray) -> None:
        _check(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3)

    def note(path: Path) -> None:
        _check(isinstance(read_record(path), dict))

    def converter(path: Path) -> None:
        _check_rgb(read_pixels(path))

    def dataset(path: Path) -> None:
        with naming_damaged_files():
            load_labels(dict(seg_map_path=str(path), reduce_zero_label=False,
                             seg_fields=[]))

    def dataset_image(path: Path) -> None:
        with naming_damaged_files():
            load_image(dict(img_path=str(path)))

    notes = {}
    for number, text in enumerate(('{"seed": 1}', '[1]', '{"a"', 'null', '\x00', '1')):
        path = scratch / f'{number}.png'
        write_picture(path, np.zeros((4, 5, 3), np.uint8), text)
        notes[path.name] = path.read_bytes()
    return dict(
        label_map=Target(corpus, label_map),
        coloured=Target(corpus, coloured),
        upload=Target(corpus, upload),
        rgb=Target(corpus, rgb),
        bgr=Target(corpus, bgr),
        note=Target(_alone(notes), note),
        palette=Target(_alone({'palette.json': json.dumps(palette).encode()}),
                       palettes, change_palette, bytes_too=False),
        converter=Target(corpus, converter),
        dataset=Target(corpus, dataset),
        dataset_image=Target(corpus, dataset_image))


class _Model(nn.Module):
    """A model whose part of the name ``semflow`` has three weights."""

    def __init__(self) -> None:
        super().__init__()
        self.semflow = nn.Module()
        for key, value in weights().items():
            self.semflow.register_buffer(key[len('semflow.'):], torch.zeros_like(value))


def _weight_targets(scratch: Path) -> Dict[str, Target]:
    tiny = MODELS.build(semflow_cfg()).state_dict()
    unet = UNet2DConditionModel(**UNET)

    whole = weights()

    def pickles(path: Path) -> None:
        found = load_from_local(str(path))
        _check(not Path('executed').exists())
        # Files in zip have check sums, by which wrong numbers are known.
        if zipfile.is_zipfile(path) and isinstance(found, dict):
            given = found.get('state_dict')
            for key, value in given.items() if isinstance(given, dict) else ():
                if key in whole and isinstance(value, torch.Tensor):
                    _check(torch.equal(value, whole[key]))

    def weights_file(path: Path) -> None:
        found = read_weights(path)
        _check(all(isinstance(k, str) for k in found))

    def into_model(path: Path) -> None:
        model = _Model()
        try:
            load_weights(model, path)
        except ValueError:
            _check(all(not v.any() for v in model.state_dict().values()))
            raise

    def into_semflow(path: Path) -> None:
        model = nn.Module()
        model.semflow = MODELS.build(semflow_cfg())
        load_weights(model, path)

    def into_unet(path: Path) -> None:
        load_unet_file(unet, path)

    both = _alone({**checkpoints(), **tensor_files()})
    saved = pickled(
        dict(state_dict={f'semflow.{k}': v for k, v in tiny.items()}, meta={}))
    return dict(
        pickles=Target(_alone(checkpoints()), pickles),
        weights=Target(both, weights_file),
        tensors=Target(_alone(tensor_files()), weights_file, change_header),
        model=Target(_alone(checkpoints()), into_model),
        semflow=Target(_alone({'semflow.pth': saved, **checkpoints()}), into_semflow),
        unet=Target({
            **both, 'unet': {'unet.safetensors': save(unet.state_dict())}
        }, into_unet))


def _latent_cache(folder: Path) -> Path:
    """Write a cache of 3 images of 8 x 8 pixels, 2 views and draws."""
    key = dict(
        format=2,
        autoencoder=dict(settings=dict(factor=2, latent_channels=3), weights={}),
        size=[8, 8],
        codec=dict(num_classes=5),
        num_views=2,
        dataset=dict(num_images=3),
        num_draws=2,
        shard_size=2,
        dtype='float32')
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder.mkdir()
    (folder / 'key.json').write_text(json.dumps(key))
    for number, count in enumerate((2, 1)):
        (folder / f'{number:05d}.safetensors').write_bytes(save(
            dict(
                posterior=torch.rand(count, 2, 2, 3, 4, 4),
                mask_latents=torch.rand(count, 2, 2, 3, 4, 4),
                label_maps=torch.zeros(count, 2, 8, 8, dtype=torch.uint8)),
            dict(key=digest)))
    return folder


def _folder_targets(scratch: Path) -> Dict[str, Target]:
    def cache(path: Path) -> None:
        found = LatentCache.read(path)
        missing = found.missing()
        for index in range(found.num_images):
            if index // found.key['shard_size'] not in missing:
                for part in found.load(index, 1, 1):
                    _check(part.dtype in (torch.float32, torch.uint8))

    settings = dict(weights='a', masks=dict(files='b'), size=[4, 5])
    (scratch / 'set').mkdir()
    (scratch / 'set/settings.json').write_text(json.dumps(settings))
    (scratch / 'set/fitted.json').write_text(json.dumps(dict(set='c', counts=[[1]])))

    def labelled_set(path: Path) -> None:
        check_folder(path, settings)

    unet = UNet2DConditionModel(**UNET)

    def stable_diffusion(path: Path) -> None:
        load_part(unet, path, 'unet')
        file = path / 'unet/diffusion_pytorch_model.safetensors'
        if file.is_file():
            own = unet.state_dict()
            _check(all(
                torch.equal(own[key], value.to(own[key].dtype)) or value.isnan().any()
                for key, value in load_file(file).items()))

    write_sd_folder(scratch / 'sd')
    sd = {
        'whole': {
            name: data for name, data in
            _inputs_of(scratch / 'sd')['whole'].items() if name.startswith('unet')
        }
    }
    write_sd_folder(scratch / 'sd_bin', safetensors=False)
    sd['pickled'] = {
        name: data for name, data in
        _inputs_of(scratch / 'sd_bin')['whole'].items() if name.startswith('unet')
    }
    return dict(
        latent_cache=Target(
            _inputs_of(_latent_cache(scratch / 'cache')), cache,
            lambda rng, files: (change_header if rng.integers(2) else
                                change_json_file)(rng, files)),
        labelled_set=Target(_inputs_of(scratch / 'set'), labelled_set,
                            change_json_file),
        stable_diffusion=Target(sd, stable_diffusion, change_json_file))


def _single_file_target(scratch: Path) -> Target:
    torch.manual_seed(0)
    parts = single_file(*build_parts())
    whole = save({k: v.contiguous() for k, v in parts.items()})

    def convert(path: Path) -> None:
        out = scratch / 'converted'
        try:
            single_file_to_folder(path, out, UNET64, VAE, byte_vocabulary(), [])
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def change(rng: np.random.Generator, files: Files) -> Files:
        """Lose, double or rename a part."""
        changed = dict(parts)
        for _ in range(int(rng.integers(1, 4))):
            key = sorted(changed)[rng.integers(len(changed))]
            kind = rng.integers(4)
            value = changed[key] if kind == 0 else changed.pop(key)
            if kind < 2:
                changed[key.replace('.', '_', 1) if kind else f'copy.{key}'] = value
            elif kind == 2:
                changed[key] = value[None]
        return {
            name: save({k: v.clone().contiguous() for k, v in changed.items()})
            for name in files
        }

    return Target({'sd.safetensors': {'sd.safetensors': whole}}, convert, change)


def _base_target(scratch: Path) -> Target:
    """Folders of other bases, each as the one folder of an input.

    Read are the network, the empty prompt by tokenizers and text encoders, and the
    autoencoder.
    """
    corpus = {}
    for name in PARTS:
        write_base(name, scratch / 'bases')
        corpus[name] = {
            f'{name}/{file}': data for file, data in
            _inputs_of(scratch / 'bases' / name)['whole'].items()
        }

    def base(path: Path) -> None:
        folder, = (p for p in path.iterdir() if p.name in PARTS)
        for cfg in parts_of(folder.name, folder):
            part = MODELS.build(cfg)
            part.init_weights()
            for name in ('unet', 'transformer', 'vae'):
                file = folder / name / 'diffusion_pytorch_model.safetensors'
                if hasattr(part, name) and file.is_file():
                    own = getattr(part, name).state_dict()
                    _check(all(
                        torch.equal(own[key], value.to(own[key].dtype))
                        or value.isnan().any()
                        for key, value in load_file(file).items()))

    return Target(corpus, base, lambda rng, files: (
        change_header if rng.integers(2) else change_json_file)(rng, files))


SEGMENTATION = dict(
    mode='whole', num_steps=1, solver='euler', preparation=dict(
        resize=dict(scale=[12, 8], keep_ratio=False, backend='cv2',
                    interpolation='bilinear'),
        pad=dict(size_divisor=8, value=0)))
SETTINGS = dict(
    version=1, classes=META['classes'], palette=META['palette'],
    segmentation=SEGMENTATION)
NOTE_OF_FILE = dict(
    SETTINGS, codec=CODEC, factor=4, divisor=4, size=None, scored=False)


def _export_targets(scratch: Path) -> Dict[str, Target]:
    """Folders of pipelines, and files of one network that doubles its picture."""
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)

    def valid(labels: np.ndarray) -> None:
        _check(labels.dtype == np.int64 and labels.shape == picture.shape[:2])

    def folder(path: Path) -> None:
        pipe = SemFlowPipeline.from_pretrained(path, local_files_only=True)
        _check(isinstance(pipe.classes, tuple) and isinstance(pipe.palette, list))

    semflow = semflow_cfg()
    settings = dict(
        SETTINGS, model=semflow, reduce_zero_label=False, synthesis=dict(num_steps=2))
    SemFlowPipeline(
        MODELS.build(semflow), json.loads(json.dumps(settings))
    ).save_pretrained(scratch / 'pipeline')
    targets = dict(pipeline=Target(
        _inputs_of(scratch / 'pipeline'), folder,
        lambda rng, files: (change_header if rng.integers(2) else
                            change_json_file)(rng, files)))

    def segmentor(path: Path) -> None:
        valid(ExportedSegmentor(path).segment(picture))

    text = json.dumps(NOTE_OF_FILE)
    files = {'program.pt2': exported_program(text)}
    if find_spec('onnx') and find_spec('onnxruntime'):
        files['graph.onnx'] = exported_graph(text)

    def change_note(rng: np.random.Generator, files: Files) -> Files:
        """Give one key of what the file says of itself another type."""
        (name, _), = files.items()
        made = exported_program if name.endswith('.pt2') else exported_graph
        return {name: made(json.dumps(change_json(rng, json.loads(text))))}

    targets['exported'] = Target(_alone(files), segmentor, change_note)
    return targets


class _Doubling(nn.Module):
    """A segmentor's graph: labels that nobody reads, and a map."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((3, 1, 1), 2.))

    def forward(self, image: torch.Tensor) -> tuple:
        return image[:, 0], image * self.factor


def exported_program(note: str) -> bytes:
    buffer, side = io.BytesIO(), torch.export.Dim('side', min=2, max=1000)
    other = torch.export.Dim('other', min=2, max=1000)
    torch.export.save(
        torch.export.export(
            _Doubling(), (torch.zeros(1, 3, 8, 16), ),
            dynamic_shapes=({2: side, 3: other}, ), strict=False), buffer,
        extra_files={NOTE: note})
    return buffer.getvalue()


def exported_graph(note: str) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    image, found = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 'high', 'wide'])
        for name in ('image', 'map'))
    graph = helper.make_graph(
        [helper.make_node('Mul', ['image', 'factor'], ['map'])], 'doubling', [image],
        [found], [numpy_helper.from_array(np.full((3, 1, 1), 2, np.float32), 'factor')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)])
    model.ir_version = 9
    helper.set_model_props(model, {NOTE: note})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _shard_target(corpus: Dict[str, bytes], prefix: str) -> Target:
    def shard(path: Path) -> None:
        listed = fileio.list_dir_or_file(f'{prefix}://{path}', list_dir=False)
        for name in list(listed)[:50]:
            fileio.get(f'{prefix}://{path}/{name}')

    return Target(_alone(corpus), shard)


def _config_target() -> Target:
    """Configs are files of JSON: one key has another type."""
    base = dict(
        plain=semflow_cfg(
            wrappers=[dict(type='CleanEnds', switch=0.1)],
            process=dict(type='RectifiedFlow', time_sampling='uniform'),
            losses=[dict(type='MatchingLoss', ignore_void=True, weight=1.),
                    dict(type='OneStepMapLoss', weight=1.)]),
        kl=semflow_cfg(
            network=dict(semflow_cfg()['network'],
                         unet=UNET, num_train_timesteps=1000,
                         gradient_checkpointing=False),
            autoencoder=dict(type='KLAutoencoder', vae=VAE)))

    def build(path: Path) -> None:
        changed = json.loads(path.read_text())
        try:
            MODELS.build(Config(changed))
        except ValueError as error:
            # No file is at fault, but a key.
            raise ValueError(f'{path}: {error}') from error

    def change(rng: np.random.Generator, files: Files) -> Files:
        name, data = next(iter(files.items()))
        whole = json.loads(data)
        while True:
            changed = change_json(rng, whole)
            # Empty arguments of diffusers are those of Stable Diffusion, at full size.
            network = changed.get('network')
            if _types(changed) == _types(whole) and not (
                    isinstance(network, dict) and network.get('unet') == {}):
                return {name: json.dumps(changed).encode()}

    def _types(value: object) -> list:
        """List what stands under the key type: mmengine's own to judge."""
        parts = value.values() if isinstance(value, dict) else \
            value if isinstance(value, list) else ()
        own = [value['type']] if isinstance(value, dict) and 'type' in value else []
        return own + [kind for part in parts for kind in _types(part)]

    return Target({
        name: {f'{name}.json': json.dumps(cfg).encode()} for name, cfg in base.items()
    }, build, change, bytes_too=False)


def make_targets(scratch: Path) -> Dict[str, Target]:
    """Make all targets.

    Args:
        scratch (Path): A folder for what the corpus is made of.
    """
    cv2.utils.logging.setLogLevel(0)
    init_default_scope('mmseg')
    return dict(
        **_picture_targets(scratch),
        **_weight_targets(scratch),
        **_folder_targets(scratch),
        **_export_targets(scratch),
        base=_base_target(scratch),
        single_file=_single_file_target(scratch),
        tar=_shard_target(tars(), 'tar'),
        parquet=_shard_target(parquets(), 'parquet'),
        config=_config_target())
