# semflow_camvid_taef2 whose masks are those of the flow alone. It wants the same cache.
_base_ = [
    '../semflow_camvid_taef2.py', '../_base_/models/taef2_white_noise.py'
]
model = dict(
    semflow=dict(
        **_base_.white_noise,
        refiner=None,
        losses=[
            loss for loss in _base_.model.semflow.losses
            if loss['type'] != 'RefinerLoss'
        ]))
# Without the style of the recipe, as it was measured.
synthesis = dict(style=None)
custom_hooks = _base_.custom_hooks
custom_hooks[-1].synthesis.update(synthesis)
