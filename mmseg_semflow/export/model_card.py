"""The page that a folder of a model has on the Hugging Face Hub."""

import json
from typing import Optional

from mmseg_semflow.flow import PseudoMaskCodec

EXAMPLE = """```python
from mmseg_semflow.export.pipeline import SemFlowPipeline

pipe = SemFlowPipeline.from_pretrained({name!r})
labels = pipe.segment('picture.png')
pictures = pipe.synthesize(labels)
```"""


def model_card(settings: dict,
               name: str,
               data: str = '',
               licence: Optional[str] = None,
               results: Optional[str] = None) -> str:
    """Write the model card.

    Args:
        settings (dict): See :func:`settings_of`.
        name (str): Folder or name of the model.
        data (str): What it was trained on. Defaults to '', not said.
        licence (str, optional): Of the weights, by an identifier that the hub
            knows, such as ``'apache-2.0'``. Defaults to None, not said.
        results (str, optional): Figures with their protocol, Markdown. Defaults
            to None, not said.

    Returns:
        str: Markdown with the header that the hub reads.
    """
    codec = PseudoMaskCodec(**settings['model']['codec'])
    colours = codec.levels.int().tolist()
    rows = ''.join(
        f'| {i} | {_cell(label)} | {tuple(colour)} | {tuple(anchor)} |\n'
        for i, (label, colour, anchor) in enumerate(
            zip(settings['classes'], settings['palette'], colours, strict=True)))
    segmentation = settings['segmentation']
    how = 'It was trained for synthesis and does not segment here.'
    if segmentation is not None:
        resize = segmentation['preparation']['resize']
        size = 'in their own size'
        if resize is not None:
            kept = ' with their proportions kept' * resize['keep_ratio']
            size = 'at {}x{} (width x height)'.format(*resize['scale']) + kept
        how = (f'It segments pictures {size}, by '
               f'{segmentation.get("num_steps", 25)} steps.')
    header = {
        'library_name': 'diffusers',
        **(dict(license=licence) if licence else {}), 'pipeline_tag':
        'image-segmentation', 'tags': ['semflow', 'semantic-segmentation',
                                       'image-synthesis']
    }
    return '\n'.join([
        '---',
        # JSON is YAML.
        *(f'{key}: {json.dumps(value)}' for key, value in header.items()),
        '---',
        '',
        f'# {name}',
        '',
        'Semantic segmentation and semantic image synthesis by one flow in two '
        'directions (SemFlow, Wang et al., NeurIPS 2024, '
        'https://arxiv.org/abs/2405.20282), trained with mmseg_semflow.',
        '',
        EXAMPLE.format(name=name),
        '',
        how,
        '',
        '## Data',
        '',
        data or 'Not said.',
        '',
        '## Results',
        '',
        (results or 'Not said.').strip(),
        '',
        '## Classes',
        '',
        'Label, class, colour of the palette, and anchor of the codec (RGB).',
        '',
        '| label | class | palette | anchor |',
        '| --- | --- | --- | --- |',
        rows.rstrip(),
        '',
        '## Codec',
        '',
        '```json',
        json.dumps(settings['model']['codec'], indent=2),
        '```',
        '',
        '## Licence',
        '',
        licence or 'Not said.',
        '',
    ])


def _cell(text: str) -> str:
    return ' '.join(str(text).split()).replace('|', r'\|')
