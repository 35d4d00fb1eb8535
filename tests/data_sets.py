"""Data sets as others write them: tars of webdataset, and lines of JSON."""

import io
import json
import tarfile


def write_tar(path, members):
    """Write files, bytes by name, into a tar; returns its path."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_lines(path, *objects):
    """Write a line of JSON for each object; returns the file's path."""
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    path.write_text(text, encoding="utf-8")
    return path
