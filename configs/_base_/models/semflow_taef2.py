# The small UNet in the latents of TAEF2, a tiny autoencoder whose weights its author
# publishes: trains on a CPU. Two files, taef2_encoder.pth and taef2_decoder.pth, lie
# in pretrained or where the environment variable TAEF2 says.
_base_ = './semflow_tiny.py'
autoencoder_weights = '{{$TAEF2:pretrained/taef2}}'
model = dict(
    semflow=dict(
        network=dict(unet=dict(in_channels=32, out_channels=32)),
        autoencoder=dict(
            _delete_=True,
            type='TinyAutoencoder',
            latent_channels=32,
            pooled=True,
            weights=autoencoder_weights)))
