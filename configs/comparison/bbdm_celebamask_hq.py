# BBDM on CelebAMask-HQ in mmagic: a Brownian bridge from mask to image with the network
# of Stable Diffusion 1.5, 512 x 512, sampled in 200 steps as in the paper.
#   tools/dist_train.sh configs/comparison/bbdm_celebamask_hq.py 8
# Bridge, objective and steps are its authors' (s = 1, eta = 1); data, batch, iterations
# and rate are SemFlow's recipe. Their code: a UNet and a VQGAN of their own at
# 256 x 256, the mask as a condition besides, absolute in place of squared errors, an
# average of the weights, Adam at 1e-4, batches of 8.
_base_ = [
    '../semflow/semflow_sd15_8xb32-80k_celebamask-hq-512x512.py',
    '../_base_/comparison/generator_runtime.py'
]
globals().update(_base_.one_way_runtime)
synthesis = dict(_base_.synthesis, num_steps=200)
model = dict(
    _base_.generator,
    semflow=dict(process=dict(type='BrownianBridge')),
    test_cfg=dict(_delete_=True, num_samples=3, **synthesis))
# A generator has the metrics of SynthesisEvalHook in its own evaluator.
custom_hooks = [h for h in _base_.custom_hooks if h.type != 'SynthesisEvalHook']
# 600 network calls per image: few of them in validations.
val_dataloader = dict(dataset=dict(_scope_='mmseg', indices=40))
comparison = dict(num_steps=[200])
