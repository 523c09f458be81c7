# DSM whose network predicts v in place of the noise.
_base_ = './dsm_toy.py'
model = dict(semflow=dict(process=dict(prediction_type='v_prediction')))
