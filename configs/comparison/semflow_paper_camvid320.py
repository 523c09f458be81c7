# The paper's objective and anchors in the latents of TAEF2: Eq. 10 alone with uniform t
# and void, k = 6, s = 50 and beta = 6, for as many iterations as semflow_camvid_taef2.
_base_ = '../semflow_camvid_taef2.py'
codec = dict(
    _base_.codec,
    divisions=6,
    spacing=50,
    amplitude=6,
    codes=None,
    void_color=(255, 255, 255))
model = dict(
    semflow=dict(
        codec=codec,
        process=dict(_delete_=True, type='RectifiedFlow'),
        wrappers=[],
        refiner=None,
        losses=[dict(type='MatchingLoss')]))
# Its pseudo masks have other latents.
train_dataloader = dict(dataset=dict(cache='data/latents/camvid_taef2_paper'))
# Without the style of the recipe, which its pictures do not lack.
synthesis = dict(style=None)
custom_hooks = _base_.custom_hooks
custom_hooks[-1].synthesis.update(synthesis)
