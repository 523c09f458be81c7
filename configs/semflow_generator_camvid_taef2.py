_base_ = './semflow/semflow_taef2-unet_1xb8-3600_camvid-256x320_generator.py'
