_base_ = './semflow/semflow_tiny-unet_1xb8-1700_toy-street-64x96.py'
