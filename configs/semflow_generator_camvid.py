# CamVid in mmagic: the same weights as semflow_camvid.py, masks to images.
_base_ = ['./semflow_camvid.py', './_base_/mmagic_runtime.py']
default_scope = 'mmagic'
custom_imports = dict(
    imports=['mmseg_semflow.runtime', 'mmseg_semflow.models.generators'])
model = dict(
    type='SemFlowGenerator',
    data_preprocessor=dict(type='SemFlowGeneratorDataPreProcessor'),
    test_cfg=dict(
        _delete_=True,
        **_base_.synthesis,
        num_samples=3,
        segment_steps=1,
        round_trip=True))
train_dataloader = dict(dataset=dict(_scope_='mmseg'))
val_dataloader = dict(dataset=dict(_scope_='mmseg'))
test_dataloader = val_dataloader
val_evaluator = _base_.mmagic_evaluator
test_evaluator = val_evaluator
val_cfg = _base_.mmagic_val_cfg
test_cfg = _base_.mmagic_test_cfg
visualizer = _base_.mmagic_visualizer
default_hooks = _base_.mmagic_hooks
custom_hooks = [
    hook for hook in _base_.custom_hooks if hook['type'] != 'SynthesisEvalHook'
]
