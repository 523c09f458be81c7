_base_ = './semflow/semflow_sd15_8xb32-8k_cityscapes-512x1024_cached.py'
