"""Every base from its folder to a trained checkpoint and what is done with it."""

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from safetensors.torch import load_file

from bases import PARTS, parts_of, write_base
from mmseg_semflow.apis import checkpoint_conversion as conversion
from mmseg_semflow.apis import load_model
from mmseg_semflow.apis.costs import count_flops, estimate_training_memory
from mmseg_semflow.apis.setup_check import SetupCheck
from runs import quick_cfg
from tiny import META, segmentor_cfg

SIZE = (24, 32)


def config_of(name, root, work_dir, folder=None, **options):
    """A config of a training on the ``street`` folder, of squares for DiT."""
    network, autoencoder = parts_of(name, folder)
    cfg = quick_cfg(root, work_dir, **{
        'model': segmentor_cfg(network=network, autoencoder=autoencoder),
        'train_cfg.type': 'ResumableTrainLoop',
        'default_hooks.checkpoint.interval': 2,
        **options
    })
    if name == 'dit':
        # In training with the labels.
        for split, place in dict(train=2, val=1, test=1).items():
            cfg[f'{split}_dataloader'].dataset.pipeline.insert(
                place, dict(type='Resize', scale=(24, 24), keep_ratio=False))
    return cfg


@pytest.fixture(scope='module', params=PARTS)
def trained(request, shared_street, tmp_path_factory):
    """Name, folder of the base, and folder of a training of four iterations."""
    root, name = tmp_path_factory.mktemp('trained'), request.param
    write_base(name, root)
    torch.manual_seed(0)
    runner = Runner.from_cfg(
        config_of(name, shared_street, root / 'work', root / name))
    before = {
        key: value.clone() for key, value in runner.model.state_dict().items()
    }
    runner.train()
    return name, root / name, root / 'work', before


def weights(path):
    return torch.load(path, weights_only=False)['state_dict']


def test_training_starts_from_the_folder_and_moves_the_network_alone(trained):
    name, folder, work_dir, before = trained
    found = weights(work_dir / 'iter_4.pth')
    assert found.keys() == before.keys()
    part = 'unet' if 'unet' in PARTS[name][0] else 'transformer'
    # The untrained model had other weights than the folder: it was read.
    for inner, place, rule in ((part, 'network', 0.02), ('vae', 'autoencoder', 0)):
        for path in (folder / inner).glob('*.safetensors'):
            for key, value in load_file(path).items():
                own = found[f'semflow.{place}.{inner}.{key}']
                assert (own - value).abs().max() <= rule, key
    earlier = weights(work_dir / 'iter_2.pth')
    moved = [
        key for key, value in found.items() if key.startswith('semflow.network.')
        and not torch.equal(value, earlier[key])
    ]
    assert len(moved) > 10 and not any('null' in key for key in moved)


def test_a_resumed_training_is_the_same(trained, shared_street, tmp_path):
    name, folder, work_dir, _ = trained
    cfg = config_of(
        name, shared_street, tmp_path / 'work', folder, resume=True,
        load_from=str(work_dir / 'iter_2.pth'))
    Runner.from_cfg(cfg).train()
    expected = weights(work_dir / 'iter_4.pth')
    for key, value in weights(tmp_path / 'work/iter_4.pth').items():
        assert torch.equal(value, expected[key]), key


def test_both_directions_need_no_folder(trained, shared_street):
    name, _, work_dir, _ = trained
    cfg = config_of(name, shared_street, work_dir)
    semflow = load_model(cfg, work_dir / 'iter_4.pth', 'cpu').semflow
    # Of a size that fits neither patches nor cells.
    size = (23, 23) if name == 'dit' else (23, 29)
    image = torch.rand(1, 3, *size) * 2 - 1
    mask = semflow.image_to_mask(image, 2)
    labels = torch.randint(0, 5, (1, *size))
    found = semflow.mask_to_image(semflow.perturbed_masks(labels), 2)
    for pixels in (mask, found):
        assert pixels.shape == image.shape and pixels.isfinite().all()
    # A step each way along the same velocity comes back.
    z = semflow.encode(image)
    t = torch.zeros(1)
    velocity = semflow.velocity(z, t)
    there = semflow._solve(z, semflow.process.times(1, 0., 1.))
    torch.testing.assert_close(there, z + velocity)


def test_conversion_is_exact_and_diffusers_reads_it(trained, shared_street, tmp_path):
    name, _, work_dir, _ = trained
    cfg = config_of(name, shared_street, work_dir)
    conversion.checkpoint_to_folder(cfg, work_dir / 'iter_4.pth', tmp_path / 'folder')
    conversion.folder_to_checkpoint(cfg, tmp_path / 'folder', tmp_path / 'back.pth')
    expected = weights(work_dir / 'iter_4.pth')
    back = torch.load(tmp_path / 'back.pth', weights_only=True)
    assert back['state_dict'].keys() == expected.keys()
    for key, value in back['state_dict'].items():
        assert torch.equal(value, expected[key]), key
    assert back['meta']['dataset_meta'] == META
    model = MODELS.build(cfg.model).semflow
    part = 'unet' if 'unet' in PARTS[name][0] else 'transformer'
    for owner, inner in ((model.network, part), (model.autoencoder, 'vae')):
        kind = type(getattr(owner, inner))
        read = kind.from_pretrained(tmp_path / 'folder', subfolder=inner)
        place = 'network' if inner == part else 'autoencoder'
        for key, value in read.state_dict().items():
            assert torch.equal(value, expected[f'semflow.{place}.{inner}.{key}'])
    # And a folder of ours is replaced where asked for.
    conversion.checkpoint_to_folder(
        cfg, work_dir / 'iter_4.pth', tmp_path / 'folder', overwrite=True)


def test_the_setup_is_checked(trained, shared_street, tmp_path):
    name, folder, _, _ = trained
    cfg = config_of(name, shared_street, tmp_path / 'work', folder)
    if name != 'dit':
        cfg.model.data_preprocessor.size = SIZE
    cfg.model.data_preprocessor.setdefault('size', (24, 24))
    findings = {f.subject: f for f in SetupCheck(cfg).run()}
    assert {f.level for f in findings.values()} == {'ok'}, findings
    assert str(folder) in findings['weights of the network'].text
    assert 'are needed on each GPU' in findings['GPU memory'].text


def test_memory_and_flops(trained, shared_street, tmp_path):
    name, _, _, _ = trained
    cfg = config_of(name, shared_street, tmp_path / 'work')
    size = (32, 32)
    memory = estimate_training_memory(cfg, 2, size, distributed=False)
    network = MODELS.build(cfg.model.semflow.network)
    trained_bytes = sum(p.nbytes for p in network.parameters())
    assert memory['gradients'] == trained_bytes
    assert memory['optimizer'] == 2 * trained_bytes
    assert memory['parameters'] >= trained_bytes
    assert memory['activations'] > 0
    flops = count_flops(cfg, size)
    assert 0 < flops['network'] < flops['training']


def test_an_adapter_of_a_transformer(shared_street, tmp_path):
    """Trained, resumed with the same bits, found upon its folder, of the size told."""
    pytest.importorskip('peft')
    write_base('flux', tmp_path)

    def train(name, **options):
        cfg = config_of('flux', shared_street, tmp_path / name, tmp_path / 'flux',
                        **options)
        cfg.model.data_preprocessor.size = SIZE
        cfg.model.semflow.network.lora = dict(rank=2)
        findings = {f.subject: f for f in SetupCheck(cfg).run()}
        assert {f.level for f in findings.values()} == {'ok'}, findings
        torch.manual_seed(0)
        Runner.from_cfg(cfg).train()
        return cfg, findings['disk'].text, tmp_path / name / 'iter_4.pth'

    cfg, told, path = train('whole')
    found = weights(path)
    inside = [key for key in found if key.startswith('semflow.network.transformer.')]
    assert inside and all('.lora_' in key for key in inside)
    # The weights, and twice the adapter for AdamW.
    size = float(told.split(' GB')[0].split()[-1]) * 1e9
    assert size == pytest.approx(
        sum(value.nbytes for value in found.values())
        + 2 * sum(found[key].nbytes for key in inside), rel=0.01)
    _, _, again = train('again', resume=True,
                        load_from=str(tmp_path / 'whole/iter_2.pth'))
    for key, value in weights(again).items():
        assert torch.equal(value, found[key]), key
    net = load_model(cfg, path, 'cpu').semflow.network
    base = load_file(tmp_path / 'flux/transformer/diffusion_pytorch_model.safetensors')
    for key, value in net.transformer.state_dict().items():
        plain = key.replace('.base_layer', '')
        expected = base.get(plain)
        if expected is None:
            expected = found[f'semflow.network.transformer.{key}']
        assert torch.equal(value, expected), key
