"""A folder of files that is replaced as the kubelet replaces those of a ConfigMap or Secret.

    folder/jwks.json -> ..data/jwks.json
    folder/..data    -> ..2026_01_31_10_32_25.7f3a/        renamed over at a change; the old one is then removed
"""

import os
import shutil
import tempfile
from pathlib import Path


class Mount:
    """A mounted folder; its files are `mount / name`."""

    def __init__(self, folder: Path, **files: str | bytes) -> None:
        self.folder = folder
        folder.mkdir()
        self.data = folder / "..data"
        self.swap(**files)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def swap(self, **files: str | bytes) -> None:
        """Replaces all files at once; `_dot_` in a name stands for a dot."""
        old = self.data.resolve() if self.data.is_symlink() else None
        new = Path(tempfile.mkdtemp(prefix="..2026_01_31_10_32_25.", dir=self.folder))
        for field, content in files.items():
            name = field.replace("_dot_", ".")
            (new / name).write_bytes(content.encode() if isinstance(content, str) else content)
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(Path("..data") / name)
        fresh = self.folder / "..data_tmp"
        fresh.symlink_to(new.name)
        os.rename(fresh, self.data)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)

    def empty(self) -> None:
        """Leaves symlinks that lead nowhere, as in the middle of a change that is not atomic."""
        shutil.rmtree(self.data.resolve())
