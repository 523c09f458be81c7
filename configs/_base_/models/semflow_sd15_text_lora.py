# An adapter of a UNet that was fitted to a domain, which reads the classes of street
# scenes. Needs the extra lora. Only training reads sd_folder; unet_weights is the base
# that the adapter changes, and is needed with every checkpoint.
_base_ = './semflow_sd15.py'
model = dict(
    semflow=dict(
        network=dict(
            unet_weights='work_dirs/semflow_gta5_source/iter_30000.pth',
            # 55 M weights: those of all attentions, behind them, and of all blocks.
            lora=dict(
                rank=64,
                targets=[
                    'to_q', 'to_k', 'to_v', 'to_out.0', 'ff.net.0.proj', 'ff.net.2',
                    'conv1', 'conv2'
                ])),
        wrappers=[
            dict(
                type='TextPrompt',
                sd_folder=_base_.sd_folder,
                scene='a city street scene photo',
                classes=[
                    'road', 'sidewalk', 'building', 'wall', 'fence', 'pole',
                    'traffic light', 'traffic sign', 'vegetation', 'terrain', 'sky',
                    'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle',
                    'bicycle'
                ])
        ]))
