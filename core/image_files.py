"""Which files of a folder are pictures by their names, and which ones systems leave beside them."""

import re
from pathlib import Path

_IMAGE_SUFFIX = re.compile(r"\.(jpe?g|jpe|jfif|png|bmp|webp|tiff?|gif|p[bgnp]m|avif|jp2)", re.IGNORECASE)
_SYSTEM_NAMES = frozenset(  # what operating systems leave in folders of pictures
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "lost+found")
)


def is_image_name(path: Path) -> bool:
    """Whether the suffix is that of a picture; the content may say otherwise."""
    return _IMAGE_SUFFIX.fullmatch(path.suffix) is not None


def is_hidden_name(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left there by an operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES
