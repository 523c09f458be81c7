# SymmFlow's objective on COCO-Stuff-164k: image and noise to noise and mask, Stable
# Diffusion 1.5 with twice the channels at both ends. All else is SemFlow's recipe.
#   tools/dist_train.sh configs/comparison/symmflow_coco_stuff164k.py 8
# Its authors' code: the UNet of Stable Diffusion 2.1, batches of 128, 200 epochs, AdamW
# at 8e-5 without decay, 10 epochs of warm-up and a cosine, image and mask weighing 0.7
# and 0.3 in the loss, here alike, an average of the weights, masks perturbed by
# 3 levels.
_base_ = '../semflow/semflow_sd15_8xb16-320k_coco-stuff164k-512x512.py'
model = dict(
    semflow=dict(
        process=dict(type='SymmetricFlow'),
        network=dict(unet=dict(in_channels=8, out_channels=8))))
