# SemFlow without anything of ours: anchors (6, 50), amplitude 6, uniform t, void
# trained on, no preconditioning. Like its neighbours it starts from nothing.
_base_ = './semflow_anchors_6_50_camvid.py'
model = dict(semflow=dict(losses=[dict(type='MatchingLoss')]))
