"""Files that are whole at any moment."""

import errno
import os

import pytest
from mmengine import fileio

from mmseg_semflow.files import read_json, write_bytes, written_whole


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


def test_a_disk_that_can_only_be_read_by_now(tmp_path, monkeypatch):
    """That what is half written cannot be removed is not what is told."""
    (tmp_path / 'a.png').write_bytes(b'old')

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, 'Read-only file system')

    for name in ('replace', 'unlink', 'fsync', 'statvfs'):
        monkeypatch.setattr(os, name, read_only)
    with pytest.raises(OSError, match='a.png cannot be written .Read-only'):
        write_bytes(tmp_path / 'a.png', b'new')
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


def test_texts_of_mmengine(tmp_path, monkeypatch):
    """By the backend that mmseg_semflow.runtime registers."""
    path = tmp_path / 'new/a.txt'
    fileio.put_text('f\u00fcr', path)
    assert path.read_bytes() == 'f\u00fcr'.encode()
    monkeypatch.setattr(os, 'fsync', lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fileio.put_text('new', path)
    assert fileio.get_text(path) == 'f\u00fcr'


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


@pytest.mark.parametrize('there', ['nothing', 'an empty folder', 'a folder'])
def test_a_folder_appears_whole(tmp_path, there):
    out = tmp_path / 'new/out'
    if there != 'nothing':
        out.mkdir(parents=True)
    if there == 'a folder':
        (out / 'old').touch()
    with written_whole(out, overwrite=there == 'a folder') as folder:
        folder.mkdir()
        (folder / 'a').write_text('a')
        assert not (out / 'a').exists()
        (folder / 'b').write_text('b')
    assert names(tmp_path / 'new') == ['out', 'out/a', 'out/b']


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, overwrite):
    out = tmp_path / 'out'
    if overwrite:
        out.mkdir()
        (out / 'old').touch()
    before = names(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        with written_whole(out, overwrite) as folder:
            folder.mkdir()
            (folder / 'half').touch()
            raise KeyboardInterrupt
    assert names(tmp_path) == before


def test_a_file_is_replaced_only_if_asked(tmp_path):
    out = tmp_path / 'out'
    out.write_text('old')
    with pytest.raises(FileExistsError, match='out is there already'):
        with written_whole(out):
            pass
    with written_whole(out, overwrite=True) as file:
        file.write_text('new')
        assert out.read_text() == 'old'
    assert out.read_text() == 'new' and names(tmp_path) == ['out']


def test_whoever_is_first_stays(tmp_path):
    """A folder that another process completed meanwhile is not replaced."""
    with pytest.raises(OSError, match='not empty'):
        with written_whole(tmp_path / 'out') as late:
            late.mkdir()
            (late / 'late').touch()
            (tmp_path / 'out').mkdir()
            (tmp_path / 'out/first').touch()
    assert names(tmp_path) == ['out', 'out/first']


@pytest.mark.parametrize('text, found', [
    ('[1]', 'it holds list'), ('{"a"', "Expecting ':'"), ('\x00', 'Expecting value'),
    (100_000 * '[', 'recursion'), ('\udcff', 'decode')])
def test_a_file_of_json(tmp_path, text, found):
    path = tmp_path / 'a.json'
    path.write_bytes(text.encode(errors='surrogateescape'))
    with pytest.raises(ValueError, match=f'a.json must hold a JSON object.*{found}'):
        read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == dict(a=1)
