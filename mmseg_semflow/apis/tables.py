"""Tables of figures."""

import csv
import io
from typing import Dict, List, Sequence, Union

Row = Dict[str, Union[str, int, float]]


def to_markdown(rows: Sequence[Row]) -> str:
    """Lay out rows as a Markdown table."""
    keys = keys_of(rows)
    lines = [keys, ['---'] * len(keys)]
    lines += [[_shown(row.get(key, '')) for key in keys] for row in rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def keys_of(rows: Sequence[Row]) -> List[str]:
    """List the columns of all rows, in the order of their appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _shown(value: Union[str, int, float]) -> str:
    if isinstance(value, float):
        return f'{value:.4g}'
    return ' '.join(str(value).split()).replace('|', r'\|')


def to_csv(rows: Sequence[Row]) -> str:
    """Lay out rows as comma separated values, unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, keys_of(rows), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
