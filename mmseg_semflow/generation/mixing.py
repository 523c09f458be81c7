"""Real and generated pictures in one training set."""

from typing import Any, Dict, List, Sequence, Tuple

from mmengine.config import ConfigDict

from mmseg_semflow.apis.loading import innermost


def repeats_of_parts(num_real: int,
                     num_generated: int,
                     generated_share: float = 0.5) -> Tuple[int, int]:
    """Choose whole repetitions that bring a share about.

    Args:
        num_real (int): Number of real pictures, at least 1.
        num_generated (int): Number of generated ones, at least 1.
        generated_share (float): Share of generated pictures in what is seen, in
            (0, 1). Defaults to 0.5.

    Returns:
        Tuple[int, int]: How often real and generated pictures are repeated; one of
        the two is 1.
    """
    ratio = num_generated * (1 / generated_share - 1) / num_real
    return max(1, round(ratio)), max(1, round(1 / ratio))


def mixed_dataset(real: dict, generated: dict, repeats: Tuple[int, int],
                  metainfo: Sequence[str]) -> Dict[str, Any]:
    """Give the config of a dataset of both parts.

    Args:
        real (dict): Config of the real part.
        generated (dict): Config of the generated part, of the same classes.
        repeats (Tuple[int, int]): How often each is repeated.
        metainfo (Sequence[str]): Keys of the metainfo of either, which may differ:
            only the order of the classes has to be the same.

    Returns:
        Dict[str, Any]: A ``ConcatDataset`` of two ``RepeatDataset``.
    """
    return dict(
        type='ConcatDataset',
        ignore_keys=sorted(set(metainfo)),
        datasets=[
            dict(type='RepeatDataset', times=times, dataset=part)
            for times, part in zip(repeats, (real, generated), strict=True)
        ])


def pipeline_for_generated(real: dict) -> List[ConfigDict]:
    """Give the pipeline of a real part to a generated one.

    Args:
        real (dict): Config of the real part, or of several that are concatenated.

    Returns:
        List[ConfigDict]: Its transforms, of the first of several; empty where it has
        none. Whatever the real labels are like, in those of a set 0 is a class: none
        reduces it.
    """
    while 'datasets' in real:
        real = innermost(real['datasets'][0])
    return [
        ConfigDict({k: v for k, v in transform.items() if k != 'reduce_zero_label'})
        for transform in real.get('pipeline', ())
    ]
