# The figures of SynthesisEvalHook in the paper's recipes. FID and LPIPS want the
# weights of their networks; without them they are left out and say so.
synthesis_metrics = [
    dict(type='InceptionDistance'),
    dict(type='PerceptualDistance'),
    dict(type='MaskConsistency'),
    dict(type='SampleDiversity')
]
