"""Write tar shards for tests."""

import io
import tarfile


def write_tar(path, members, mode="w"):
    """Write a tar file with the members, name -> bytes; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def webdataset(jpeg, labels, start=0, label=lambda value: (".cls", str(value).encode())):
    """Return the members of a WebDataset shard; the color of each image depends on its label.

    Args:
        jpeg: a function from an RGB color to the bytes of an image.
        labels: the label of each sample.
        start: number of the first sample.
        label: a function from a label to the suffix and the bytes of its file.
    """
    members = {}
    for number, value in enumerate(labels, start):
        suffix, content = label(value)
        members[f"{number:06}.jpg"] = jpeg((40 * value, 0, 128))
        members[f"{number:06}{suffix}"] = content
    return members


def linked(path, name, target, kind):
    """Append a link to the tar file; `kind` is `tarfile.SYMTYPE` or `tarfile.LNKTYPE`."""
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = target
        tar.addfile(info)
