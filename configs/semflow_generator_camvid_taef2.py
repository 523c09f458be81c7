_base_ = './semflow/semflow_taef2-unet_1xb8-3400_camvid-256x320_generator.py'
