from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = {}
exec((here / 'mmseg_semflow/version.py').read_text(), version)

setup(
    name='mmseg_semflow',
    version=version['__version__'],
    description='SemFlow for mmsegmentation: semantic segmentation and '
    'semantic image synthesis by one rectified flow',
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmseg_semflow', 'mmseg_semflow.*']),
    python_requires='>=3.10',
    install_requires=[
        # Names an allowed global by its module, for checkpoints.
        'torch>=2.6',
        'torchdiffeq>=0.2.5',
        'mmengine>=0.10.4,<1.0',
        'mmcv>=2.0.0,<2.2.0',
        'mmsegmentation>=1.2.2,<2.0',
        'diffusers>=0.28',
        'transformers>=4.41',
        'safetensors',
        'matplotlib',
        'pillow',
        'numpy>=1.25',
        'packaging',
        # Imported by mmsegmentation 1.2.2, which does not require them.
        'ftfy',
        'regex',
        # Imported by mmengine 0.10.7 as pkg_resources, gone in 81.
        'setuptools<81',
    ],
    extras_require=dict(
        dev=['pytest', 'pytest-xdist', 'hypothesis', 'ruff', 'playwright'],
        # FID, KID, LPIPS.
        metrics=['torchmetrics>=1.3', 'torch-fidelity>=0.3', 'lpips>=0.1.4',
                 'torchvision'],
        # The web page. Later releases of gradio want another huggingface_hub
        # than mmagic, this one wants these of its own requirements.
        demo=['gradio>=4.44,<5', 'fastapi<0.116', 'starlette<0.42',
              'pydantic<2.11'],
        # MaskFormer, among the compared methods.
        mmdet=['mmdet>=3.1,<4'],
        # ZeRO. mmengine 0.10.7 trains with 0.16.9 and fails with 0.19.8; what
        # lies between was not tried.
        deepspeed=['deepspeed>=0.16.9,<0.19'],
        # What mmagic 1.2.0 imports. Its own list of requirements names many
        # more, some without wheels: `pip install --no-deps mmagic==1.2.0`.
        mmagic=[
            'diffusers>=0.28,<0.29', 'huggingface_hub<0.26',
            'transformers<4.47', 'numpy<2', 'opencv-python<4.12', 'click',
            'imageio', 'pandas', 'resize-right', 'albumentations',
            'controlnet_aux', 'lpips', 'einops', 'torchvision'
        ],
    ),
)
