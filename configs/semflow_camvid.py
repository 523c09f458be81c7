_base_ = './semflow/semflow_tiny-unet_1xb8-2600_camvid-96x128.py'
