_base_ = './semflow/semflow_sd15-lora_8xb4-30k_gta5-512x512_swapped.py'
