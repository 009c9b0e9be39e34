"""Tar shards for tests."""

import io
import tarfile


def write_tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def webdataset(jpeg, labels, start=0, label=lambda value: (".cls", str(value).encode())):
    """Members as WebDataset writes them; the colour says the label."""
    members = {}
    for number, value in enumerate(labels, start):
        suffix, content = label(value)
        members |= {f"{number:06}.jpg": jpeg((40 * value, 0, 128)), f"{number:06}{suffix}": content}
    return members


def linked(path, name, target, kind):
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        tar.addfile(info)
