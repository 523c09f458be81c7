"""Files that are whole at any moment."""

import errno
import os

import pytest

from mmseg_semflow.files import write_bytes


def test_the_folder_is_made_and_nothing_else(tmp_path):
    # What a killed process leaves.
    (tmp_path / 'new/b').mkdir(parents=True)
    (tmp_path / 'new/b/a.partial').write_bytes(b'half of something longer')
    for data in (b'old', b'new'):
        write_bytes(tmp_path / 'new/b/a', data)
        assert (tmp_path / 'new/b/a').read_bytes() == data
    assert os.listdir(tmp_path / 'new/b') == ['a']


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    (tmp_path / 'a.png').write_bytes(b'old')

    def no_space(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'replace', no_space)
    with pytest.raises(OSError, match='a.png cannot be written .No space left'):
        write_bytes(tmp_path / 'a.png', b'new')
    assert os.listdir(tmp_path) == ['a.png']
    assert (tmp_path / 'a.png').read_bytes() == b'old'


def test_ranks_write_one_file_at_the_same_time(tmp_path, monkeypatch):
    replace = os.replace

    def overtaken(*args):
        monkeypatch.setattr(os, 'replace', replace)
        monkeypatch.setenv('RANK', '1')
        write_bytes(tmp_path / 'a.json', b'of rank 1, longer')
        assert (tmp_path / 'a.json').read_bytes() == b'of rank 1, longer'
        replace(*args)

    monkeypatch.setattr(os, 'replace', overtaken)
    monkeypatch.setenv('RANK', '0')
    write_bytes(tmp_path / 'a.json', b'of rank 0')
    assert (tmp_path / 'a.json').read_bytes() == b'of rank 0'
    assert os.listdir(tmp_path) == ['a.json']


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='file/a.png cannot be written'):
        write_bytes(tmp_path / 'file/a.png', b'new')
