# Style swap, third step: the adapter of semflow_gta5.py upon the original UNet, to
# draw with.
#   tools/dist_generate.sh configs/semflow_gta5_swapped.py \
#       work_dirs/semflow_gta5/iter_30000.pth 8 --out data/gta5_drawn --num-images 6000
_base_ = './semflow_sd15-lora_8xb4-30k_gta5-512x512.py'
model = dict(
    semflow=dict(network=dict(unet_weights=None, lora=dict(swap=True))))
