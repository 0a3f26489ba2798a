"""How much is read at most of what others wrote: no file may fill the memory. A refusal names its bound."""

#: Pixels of a decoded picture. Above so many Pillow warns of a bomb; at four bytes each they take 360 MB.
PIXELS = 89_478_485
#: Pixels of a JPEG that is decoded at a fraction of its size. Phones take pictures of 200 million.
JPEG_PIXELS = 250_000_000
#: Height and width of a picture: the most that a JPEG can have. Resizing takes 50 bytes for each column or row.
SIDE = 65_535
#: Bytes of a picture's file, alone or in an archive.
PICTURE_BYTES = 512 << 20
#: Bytes that a zip archive unpacks to. Omniglot's have 7 MB.
ARCHIVE_BYTES = 1 << 30
#: Bytes of a pickle of arrays. The largest of mini-ImageNet has 2.4 GB.
PICKLE_BYTES = 4 << 30
#: Objects in a pickle, and the depth to which they lie in one another.
PICKLE_OBJECTS, PICKLE_DEPTH = 10_000_000, 100
#: Bytes of a list of files, as text: a table, or a store's manifest.
LIST_BYTES = 100 << 20
#: Bytes of a file of flags: what PyYAML reads in a second.
CONFIG_BYTES = 100 << 10
#: Folders in one another.
FOLDERS = 100
#: The largest whole number that an argument may be, seeds included.
COUNT = 2**32 - 1


def in_words(number: int) -> str:
    """Bytes as a person reads them: 512 MB."""
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} bytes"
