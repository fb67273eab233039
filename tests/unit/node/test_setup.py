from pathlib import Path

from rdht.node import setup
from rdht.node.host import Folders


def test_folders_are_made_once(folders: Folders, home: Path) -> None:
    made = setup.prepare(folders, {}, b"")["made"]
    assert [(home / folder).is_dir() for folder in made] == [True, True]
    assert setup.prepare(folders, {}, b"") == {"made": [], "secret": None}
