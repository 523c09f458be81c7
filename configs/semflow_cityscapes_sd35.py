_base_ = './semflow/semflow_sd35-medium_8xb32-8k_cityscapes-512x1024.py'
