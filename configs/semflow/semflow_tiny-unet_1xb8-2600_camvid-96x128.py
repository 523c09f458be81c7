# CamVid with the one-step loss beside the paper's objective, on a CPU: about
# 15 minutes on 2 cores.
_base_ = './semflow_tiny-unet_1xb8-2600_camvid-96x128_paper-objective.py'
model = dict(
    semflow=dict(
        losses=[
            dict(type='MatchingLoss', ignore_void=True),
            dict(
                type='OneStepMapLoss',
                weight=1.,
                scale=1.5,
                # Proportional to 1 / sqrt(share of the class in the training
                # set), with a mean of 1 over all pixels.
                class_weight=(0.89, 0.72, 3.55, 0.66, 1.37, 1.06, 3.39, 3.0,
                              1.66, 4.59, 5.03))
        ]))
