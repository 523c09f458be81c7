"""pix2pix and CycleGAN of mmagic for masks; pix2pixHD, SPADE and SC-GAN."""

from typing import Any, Dict, List, Tuple

import torch
from mmagic.models.editors import CycleGAN, Pix2Pix
from mmagic.registry import MODELS
from torch import Tensor, nn

from .mask_to_image import MaskToImage


@MODELS.register_module()
class MaskPix2Pix(MaskToImage, Pix2Pix):
    """pix2pix (Isola et al., CVPR 2017) of mmagic.

    Its noise is the dropout of the generator, in tests too (Sec. 3.2.1).

    Args:
        **kwargs: Arguments of :class:`MaskToImage` and of mmagic's
            ``Pix2Pix``.
    """

    def train(self, mode: bool = True) -> 'MaskPix2Pix':
        """Switch the mode of all but dropout, which stays on."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        return self


@MODELS.register_module()
class MaskCycleGAN(MaskToImage, CycleGAN):
    """CycleGAN (Zhu et al., ICCV 2017) of mmagic, without noise.

    None of its losses compares an image with its own mask, so batches of
    pairs are as good as unpaired ones.

    Args:
        **kwargs: Arguments of :class:`MaskToImage` and of mmagic's
            ``CycleGAN``.
    """

    reachable = ('photo', 'mask')


@MODELS.register_module()
class Pix2PixHD(MaskToImage, Pix2Pix):
    r"""pix2pixHD (Wang et al., CVPR 2018, Eq. 8), without noise.

    .. math::
        \min_G \max_D \frac{1}{K} \sum_{k=1}^{K}
            \left( L_{GAN}(G, D_k) + \lambda L_{FM}(G, D_k) \right)

    with least squares for :math:`L_{GAN}` and the feature matching of Eq. 7
    for :math:`L_{FM}`: the mean absolute differences, summed over the layers
    of a discriminator, between what it finds in the real and in the made
    image. Without instances there are no edges of instances in the input;
    the perceptual loss, whose network has weights from outside, is left out.

    Args:
        discriminator (dict): Config of one that returns the outputs of all
            layers, :class:`MultiScalePatchDiscriminator`.
        loss_config (dict, optional): ``feature_loss_weight``, lambda.
            Defaults to None, 10.
        **kwargs: Arguments of :class:`MaskToImage`.
    """

    gan_type = 'lsgan'

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gan_loss = MODELS.build(
            dict(type='GANLoss', gan_type=self.gan_type))
        self.feature_loss_weight = self.loss_config.get(
            'feature_loss_weight', 10.)

    def _get_disc_loss(self, outputs: Dict[str, Tensor]) -> tuple:
        mask = outputs['real_mask'].repeat(2, 1, 1, 1)
        photo = torch.cat(
            [outputs['fake_photo'].detach(), outputs['real_photo']])
        fake, real = zip(
            *(scale[-1].chunk(2) for scale in self._discriminate(mask, photo)),
            strict=True)
        return self.parse_losses(
            dict(
                loss_gan_d_fake=self._adversarial(fake, False, is_disc=True),
                loss_gan_d_real=self._adversarial(real, True, is_disc=True)))

    def _get_gen_loss(self, outputs: Dict[str, Tensor]) -> tuple:
        return self.parse_losses(self._gen_losses(outputs))

    def _gen_losses(self, outputs: Dict[str, Tensor]) -> Dict[str, Tensor]:
        mask = outputs['real_mask']
        fake = self._discriminate(mask, outputs['fake_photo'])
        with torch.no_grad():
            real = self._discriminate(mask, outputs['real_photo'])
        matching = sum(
            nn.functional.l1_loss(*pair)
            for scales in zip(fake, real, strict=True)
            for pair in zip(*(scale[:-1] for scale in scales), strict=True))
        return dict(
            loss_gan_g=self._adversarial([scale[-1] for scale in fake], True),
            loss_feature=self.feature_loss_weight * matching / len(fake))

    def _discriminate(self, mask: Tensor, photo: Tensor) -> List[List[Tensor]]:
        discriminator = self._get_target_discriminator('photo')
        return discriminator(torch.cat([mask, photo], 1))

    def _adversarial(self,
                     predictions: Tuple[Tensor, ...],
                     is_real: bool,
                     is_disc: bool = False) -> Tensor:
        losses = [
            self.gan_loss(prediction, is_real, is_disc)
            for prediction in predictions
        ]
        return sum(losses) / len(losses)


@MODELS.register_module()
class SPADE(Pix2PixHD):
    """SPADE (Park et al., CVPR 2019): pix2pixHD's losses but for the hinge.

    Its noise is the z of the generator; there is no encoder of images.

    Args:
        **kwargs: Arguments of :class:`Pix2PixHD`.
    """

    gan_type = 'hinge'


@MODELS.register_module()
class SCGAN(SPADE):
    r"""SC-GAN (Wang et al., ICCV 2021): SPADE's losses and a regression.

    .. math::
        \lambda_V \, | G_V(m) - x |_1

    between what the semantic vectors tell of the image and the image (Fig. 2).
    Norm, weight and the discriminator, SPADE's, are those of the authors' code
    for CelebAMask-HQ. Its perceptual loss, whose network has weights from
    outside, and its encoder of images are left out, so z is normal noise in
    training too.

    Args:
        generator (dict): Config of :class:`SCGANGenerator`.
        loss_config (dict, optional): ``feature_loss_weight``, as in
            :class:`Pix2PixHD`, and ``regression_loss_weight``, lambda_V.
            Defaults to None, 10 and 1.
        **kwargs: Arguments of :class:`SPADE`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.regression_loss_weight = self.loss_config.get(
            'regression_loss_weight', 1.)

    def _gen_losses(self, outputs: Dict[str, Tensor]) -> Dict[str, Tensor]:
        vectors = self._get_target_generator('photo').vectors
        regression = nn.functional.l1_loss(
            vectors.regress(outputs['real_mask']), outputs['real_photo'])
        return super()._gen_losses(outputs) | dict(
            loss_regression=self.regression_loss_weight * regression)
