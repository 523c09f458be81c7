# DSM by the paper's recipe: Stable Diffusion 1.5 with a wider first convolution.
#   tools/dist_train.sh configs/comparison/dsm_cityscapes.py 8
_base_ = '../semflow_cityscapes.py'
model = dict(
    semflow=dict(
        process=dict(type='Diffusion'), network=dict(unet=dict(in_channels=8))),
    test_cfg=dict(num_steps=200, solver='DDIMScheduler'))
# It draws no images.
custom_hooks = [
    hook for hook in _base_.custom_hooks if hook['type'] != 'SynthesisEvalHook'
]
comparison = dict(
    solvers=['DDIMScheduler', 'DDPMScheduler'],
    num_steps=[1, 2, 5, 10, 25, 50, 100, 200])
