# semflow_camvid_taef2 whose masks are those of the flow alone. It wants the same cache.
_base_ = '../semflow_camvid_taef2.py'
model = dict(
    semflow=dict(
        # White noise, as it was measured.
        process=dict(mask_noise=0.65),
        wrappers=[dict(type='EndStdPreconditioning', end_std=(0.87, 1.04))],
        refiner=None,
        losses=[
            loss for loss in _base_.model.semflow.losses
            if loss['type'] != 'RefinerLoss'
        ]))
# Without the style of the recipe, as it was measured.
synthesis = dict(style=None)
custom_hooks = _base_.custom_hooks
custom_hooks[-1].synthesis.update(synthesis)
