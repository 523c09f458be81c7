# What SemFlow and the methods it is compared with have in common on the toy
# street: the images, the iterations and the batch.
_base_ = [
    'mmseg::_base_/default_runtime.py', '../datasets/toy_street.py',
    '../schedules/semflow_tiny.py', '../semflow_runtime.py'
]
