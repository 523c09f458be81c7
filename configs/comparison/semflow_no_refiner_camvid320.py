# semflow_white_noise_camvid320 whose masks are those of the flow alone. It wants the
# same cache.
_base_ = './semflow_white_noise_camvid320.py'
model = dict(
    semflow=dict(
        refiner=None,
        losses=[
            loss for loss in _base_.model.semflow.losses
            if loss['type'] != 'RefinerLoss'
        ]))
