# The codec of the paper, k = 6, s = 50 and beta = 6, in place of the widest spacing.
_base_ = './semflow_plain_toy.py'
model = dict(
    semflow=dict(
        codec=dict(
            divisions=6,
            spacing=50,
            amplitude=6,
            codes=None,
            void_color=(255, 255, 255))))
