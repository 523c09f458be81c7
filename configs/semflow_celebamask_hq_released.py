_base_ = './semflow/semflow_sd15_8xb32-80k_celebamask-hq-512x512_released.py'
