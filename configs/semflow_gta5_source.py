_base_ = './semflow/semflow_sd15-source_8xb4-30k_gta5-512x512.py'
