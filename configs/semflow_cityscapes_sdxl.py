_base_ = './semflow/semflow_sdxl_8xb32-8k_cityscapes-512x1024.py'
