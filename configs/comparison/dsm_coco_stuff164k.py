# DSM by the paper's recipe: Stable Diffusion 1.5 with a wider first convolution.
#   tools/dist_train.sh configs/comparison/dsm_coco_stuff164k.py 8
# DSM-DDPM of the paper is the same checkpoint with
#   --cfg-options model.test_cfg.solver=DDPMScheduler
_base_ = '../semflow/semflow_sd15_8xb16-320k_coco-stuff164k-512x512.py'
model = dict(
    semflow=dict(
        process=dict(type='Diffusion'), network=dict(unet=dict(in_channels=8))),
    test_cfg=dict(num_steps=200, solver='DDIMScheduler'))
# It synthesises no images.
custom_hooks = [h for h in _base_.custom_hooks if h.type != 'SynthesisEvalHook']
# 200 network calls per image: few of them in validations.
val_dataloader = dict(dataset=dict(indices=100))
comparison = dict(
    solvers=['DDIMScheduler', 'DDPMScheduler'],
    num_steps=[1, 2, 5, 10, 25, 50, 100, 200])
