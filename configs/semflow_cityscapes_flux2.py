_base_ = './semflow/semflow_flux2-klein-lora_8xb32-8k_cityscapes-512x1024.py'
