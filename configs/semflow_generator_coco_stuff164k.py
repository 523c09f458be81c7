_base_ = './semflow/semflow_sd15_8xb16-320k_coco-stuff164k-512x512_generator.py'
