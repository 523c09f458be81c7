# The recipe for Cityscapes as an adapter of FLUX.2 [klein] base 4B, whose weights stay as they are.
# Needs the extra lora. Batch, rank and rate are chosen, not measured; it was not run to
# its end (docs/bases.md).
#   tools/dist_train.sh configs/semflow_cityscapes_flux2.py 8
_base_ = [
    '../_base_/models/semflow_flux2-klein.py',
    '../_base_/cityscapes_512x1024_8k.py'
]
model = dict(
    semflow=dict(
        codec=_base_.codec,
        network=dict(
            lora=dict(
                rank=64,
                # Of what the picture passes: the prompt is always the same.
                targets=[
                    'to_q', 'to_k', 'to_v', 'to_out.0', 'ff.linear_in', 'ff.linear_out',
                    'to_qkv_mlp_proj', 'attn.to_out', 'proj_out'
                ]))))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
