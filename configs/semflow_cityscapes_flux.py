_base_ = './semflow/semflow_flux1-dev-lora_8xb8-8k_cityscapes-512x1024.py'
