"""The segmentor under mmengine's runner, with mmseg's hooks and tools."""

import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmseg.apis import MMSegInferencer, inference_model, init_model

from mmseg_semflow.safe_loading import load_from_local
from runs import build_runner
from tiny import CODEC, TEST_PIPELINE, segmentor_cfg, train_pipeline

TTA_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale_factor=ratio, keep_ratio=True)
            for ratio in (0.5, 1.)
        ], [dict(type='RandomFlip', prob=p) for p in (0., 1.)],
                    [dict(type='LoadAnnotations')],
                    [dict(type='PackSegInputs')]])
]


@pytest.fixture(scope='module')
def trained(shared_street, tmp_path_factory):
    """A training of four iterations, and what it wrote: not to be changed."""
    runner = build_runner(
        shared_street,
        tmp_path_factory.mktemp('trained') / 'work',
        test_pipeline=TEST_PIPELINE)
    runner.train()
    return runner


@pytest.fixture
def checkpoint(trained):
    """Its checkpoint."""
    return Path(trained.work_dir, 'iter_4.pth')


def reference_miou(model, root):
    """Intersection over union by hand, of one image at a time."""
    hits, unions = np.zeros(5), np.zeros(5)
    for name in sorted(os.listdir(root / 'img_dir/val')):
        image = cv2.imread(str(root / 'img_dir/val' / name))[..., ::-1]
        truth = cv2.imread(
            str(root / 'ann_dir/val' / name.replace('jpg', 'png')), 0)
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            found = model.semflow.codec.decode(
                model.semflow.image_to_mask(pixels / 127.5 - 1,
                                            model.test_cfg.num_steps))[0]
        found, valid = found.numpy(), truth != 255
        for c in range(5):
            a, b = (found == c) & valid, (truth == c) & valid
            hits[c] += (a & b).sum()
            unions[c] += (a | b).sum()
    return 100 * np.mean(hits / unions)


def test_train_test_and_miou(run, trained, checkpoint, shared_street):
    tested = run(load_from=str(checkpoint))
    metrics = tested.test()
    for key, value in trained.model.state_dict().items():
        assert torch.equal(tested.model.state_dict()[key], value), key
    assert metrics['mIoU'] == pytest.approx(
        reference_miou(tested.model, shared_street), abs=0.01)


def test_training_learns(run):
    """Five colours for five classes are learned in a few iterations."""
    max_iters = 250
    network = dict(
        type='VelocityUNet',
        prompt_length=1,
        unet=dict(
            in_channels=12,
            out_channels=12,
            down_block_types=('DownBlock2D', ),
            up_block_types=('UpBlock2D', ),
            block_out_channels=(16, ),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            cross_attention_dim=8))
    runner = run(
        max_iters=max_iters,
        model=segmentor_cfg(network=network),
        param_scheduler=[
            dict(type='LinearLR', start_factor=1., end_factor=0., begin=0,
                 end=max_iters, by_epoch=False)
        ],
        **{
            'optim_wrapper.optimizer.lr': 5e-3,
            'optim_wrapper.optimizer.fused': True,
            'default_hooks.logger.interval': 50
        })
    runner.train()
    assert runner.message_hub.get_scalar('val/mIoU').current() > 80


def test_visualization(run, tmp_path):
    run(**{
        'default_hooks.visualization.draw': True,
        'default_hooks.visualization.interval': 1,
        'visualizer.save_dir': str(tmp_path / 'pictures')
    }).test()
    pictures = list((tmp_path / 'pictures').rglob('*.png'))
    assert len(pictures) == 4
    assert cv2.imread(str(pictures[0])).shape == (24, 64, 3)


@pytest.mark.parametrize('test_cfg', [
    dict(num_steps=1),
    dict(num_steps=1, mode='slide', crop_size=(16, 16), stride=(8, 8)),
])
def test_test_time_augmentation(run, test_cfg):
    model = dict(type='SegTTAModel', module=segmentor_cfg(test_cfg))
    runner = run(model=model, **{'test_dataloader.dataset.pipeline':
                                 TTA_PIPELINE})
    assert 0 <= runner.test()['mIoU'] <= 100


def test_size_divisor_in_testing(run):
    metrics = []

    class Rest(torch.nn.Module):

        def forward(self, zt, t):
            seen.append(zt.shape)
            return torch.zeros_like(zt)

    for divisor in (None, 16):
        model = segmentor_cfg()
        if divisor:
            model['data_preprocessor']['test_cfg'] = dict(size_divisor=divisor)
        runner = run(f'divisor{divisor}', model=model)
        seen = []
        runner.model.semflow.network = Rest()
        metrics.append(runner.test())
        assert seen[0][-2:] == ((16, 16) if divisor else (12, 16))
    # The flow rests, so that the padding alone could change a result.
    assert metrics[1]['mIoU'] == metrics[0]['mIoU'] > 0


def test_ema_is_evaluated_saved_and_resumed(run, tmp_path):
    hooks = [dict(type='EMAHook', momentum=0.3)]
    run(max_iters=2, custom_hooks=hooks).train()
    path = str(tmp_path / 'work/iter_2.pth')
    saved = load_from_local(path)
    key = 'semflow.network.unet.conv_in.weight'
    assert not torch.equal(saved['state_dict'][key],
                           saved['ema_state_dict'][f'module.{key}'])
    tested = run('again', load_from=path)
    tested.load_or_resume()
    assert torch.equal(tested.model.state_dict()[key],
                       saved['state_dict'][key])
    resumed = run(
        'more', custom_hooks=hooks, resume=True, max_iters=3, load_from=path)
    resumed.train()
    assert resumed.iter == 3


def test_resume_continues_where_it_stopped(run, trained, tmp_path):
    shutil.copytree(trained.work_dir, tmp_path / 'work')
    resumed = run(resume=True, max_iters=6)
    resumed.train()
    assert resumed.iter == 6
    assert resumed.optim_wrapper.optimizer.state_dict()['state'][0]['step'] == 6


@pytest.mark.parametrize('testing', [{'model.test_cfg.dtype': 'bfloat16'},
                                     {'val_cfg.fp16': True}])
def test_bfloat16_in_training_and_testing(run, testing):
    dtypes = []
    runner = run(max_iters=1, **{'optim_wrapper.type': 'AutocastOptimWrapper',
                                 'optim_wrapper.dtype': 'bfloat16'}, **testing)
    unet = runner.model.semflow.network.unet
    unet.conv_in.register_forward_hook(
        lambda module, args, out: dtypes.append((module.training, out.dtype)))
    runner.train()
    assert set(dtypes) == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert all(p.dtype == torch.float32 for p in unet.parameters())


def test_accumulation_equals_the_larger_batch(run):
    """Two half batches of the same samples give one step of the whole."""
    weights = []
    for batch_size, counts in ((6, 1), (3, 2)):
        runner = run(
            f'batch{batch_size}',
            max_iters=counts,
            model=segmentor_cfg(codec=dict(CODEC, amplitude=0.)),
            **{
                'train_dataloader.batch_size': batch_size,
                'train_dataloader.sampler.shuffle': False,
                'train_dataloader.dataset.pipeline':
                train_pipeline(flip=0.),
                'optim_wrapper.accumulative_counts': counts,
                'optim_wrapper.optimizer': dict(type='SGD', lr=0.1),
            })
        # A fixed t and no noise, so that only the batching differs.
        path = runner.model.semflow.process.path
        path.sample_time = lambda size, **kwargs: torch.full((size, ), 0.5)
        runner.train()
        weights.append(runner.model.semflow.network.state_dict())
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-4)


def test_inference_apis(trained, checkpoint, shared_street, tmp_path):
    trained.cfg.dump(tmp_path / 'config.py')
    image = str(shared_street / 'img_dir/val/0.jpg')
    model = init_model(str(tmp_path / 'config.py'), str(checkpoint), 'cpu')
    result = inference_model(model, image)
    assert result.pred_sem_seg.shape == (24, 32)
    inferencer = MMSegInferencer(
        str(tmp_path / 'config.py'), str(checkpoint), device='cpu')
    found = inferencer(image, out_dir=str(tmp_path / 'out'))['predictions']
    assert np.array_equal(found, result.pred_sem_seg.data[0].numpy())
    assert len(list((tmp_path / 'out').rglob('*.png'))) == 1
    assert len(list((tmp_path / 'out').rglob('*.jpg'))) == 1


def test_nan_stops_before_the_next_checkpoint(run, tmp_path):
    runner = run(max_iters=9, **{
        'default_hooks.checkpoint.interval': 2,
        'optim_wrapper.optimizer.lr': 1e-3
    })
    sample_time = runner.model.semflow.process.path.sample_time

    def poisoned(*args, **kwargs):
        t = sample_time(*args, **kwargs)
        return t if runner.iter != 4 else t * torch.nan

    runner.model.semflow.process.path.sample_time = poisoned
    with pytest.raises(RuntimeError, match='NaN or infinite .*work were wri'):
        runner.train()
    assert {p.name for p in (tmp_path / 'work').glob('*.pth')} == \
        {'iter_2.pth', 'iter_4.pth'}
    last = load_from_local(str(tmp_path / 'work/iter_4.pth'))
    assert all(v.isfinite().all() for v in last['state_dict'].values())


def test_infinite_gradient_stops_before_its_checkpoint(run, tmp_path):
    """The loss is finite, the weights are not: the old checkpoint stays."""
    runner = run(max_iters=9, **{
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.checkpoint.max_keep_ckpts': 1
    })
    weight = runner.model.semflow.network.unet.conv_out.weight
    weight.register_hook(
        lambda grad: grad * torch.inf if runner.iter == 3 else grad)
    with pytest.raises(RuntimeError, match='iterations up to 4: training stops'):
        runner.train()
    assert [p.name for p in (tmp_path / 'work').glob('*.pth')] == ['iter_2.pth']


def test_truncated_checkpoint_is_named_and_kept(run, checkpoint, tmp_path):
    path = tmp_path / 'work/iter_4.pth'
    path.parent.mkdir()
    data = checkpoint.read_bytes()
    path.write_bytes(data[:len(data) // 2])
    (tmp_path / 'work/last_checkpoint').write_text(str(path))
    for options in (dict(load_from=str(path)), dict(resume=True)):
        with pytest.raises(ValueError, match='iter_4.pth cannot be read: it is'):
            run(max_iters=6, **options).train()
    assert path.read_bytes() == data[:len(data) // 2]
    assert len(list((tmp_path / 'work').glob('*.pth'))) == 1


@pytest.mark.parametrize('text', ['', 'epoch 1\n', 'no weights', '{"a": 1}'])
def test_a_text_file_as_checkpoint(tmp_path, text):
    path = tmp_path / 'notes.pth'
    path.write_text(text)
    with pytest.raises(ValueError, match='notes.pth cannot be read: it is'):
        CheckpointLoader.load_checkpoint(str(path))


def test_checkpoint_of_another_codec(run, checkpoint):
    model = segmentor_cfg(codec=dict(CODEC, spacing=150))
    with pytest.raises(ValueError, match='a codec with other anchors'):
        run(model=model, load_from=str(checkpoint)).test()


class Malicious:

    def __reduce__(self):
        return os.mkdir, ('executed', )


def test_checkpoints_execute_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=Malicious()), 'bad.pth')
    with pytest.raises(ValueError, match='bad.pth cannot be read'):
        load_checkpoint(torch.nn.Linear(1, 1), 'bad.pth')
    assert not (tmp_path / 'executed').exists()
    with open('bad.pth', 'rb') as file, pytest.raises(pickle.UnpicklingError):
        pickle.load(file)


class Reaching:
    """Reaches for what is no figure of mmengine's history of the losses."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_checkpoints_reach_nothing_by_getattr(tmp_path):
    allowed = torch.serialization.get_safe_globals()
    torch.save(dict(meta=Reaching()), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match="'__init__'.* refused"):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'bad.pth'))
    # While others load, the list is theirs. torch lists a set, in any order.
    assert sorted(torch.serialization.get_safe_globals(), key=id) == sorted(
        allowed, key=id)
    assert HistoryBuffer not in allowed


def test_missing_checkpoint(run):
    with pytest.raises(FileNotFoundError, match='none.pth'):
        run(load_from='none.pth').test()


def test_missing_data_folder(run, street):
    shutil.rmtree(street / 'img_dir/train')
    with pytest.raises(FileNotFoundError, match='img_dir/train'):
        run().train()


def test_image_without_its_mask(run, street):
    (street / 'ann_dir/train/3.png').unlink()
    with pytest.raises(FileNotFoundError, match='ann_dir/train/3.png'):
        run(max_iters=9).train()


def test_label_out_of_range_names_its_file(run, street):
    path = street / 'ann_dir/train/2.png'
    cv2.imwrite(str(path), np.full((24, 32), 5, np.uint8))
    with pytest.raises(ValueError, match=r'train/2.png has the labels \[5\]'):
        run(max_iters=9).train()


@pytest.mark.parametrize('channels', [1, 4])
def test_grayscale_and_rgba_images_are_read_as_colour(run, street, channels):
    image = np.random.default_rng(0).integers(
        0, 256, (24, 32, channels), dtype=np.uint8)
    for path in (street / 'img_dir').rglob('*.jpg'):
        # Readers go by the content, not by the suffix.
        path.write_bytes(cv2.imencode('.png', image)[1].tobytes())
    runner = run(max_iters=1)
    runner.train()
    assert 0 <= runner.message_hub.get_scalar('val/mIoU').current() <= 100
