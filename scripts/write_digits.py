"""Write scikit-learn's handwritten digits as PNG files, in a folder for each class.

usage: python scripts/write_digits.py FOLDER

example:
  python scripts/write_digits.py data/digits
  python scripts/fit.py --config configs/images.yaml --data datamodules.ImageFolder --data.root data/digits

1,797 images of 8 x 8 pixels, in FOLDER/train/DIGIT/ and FOLDER/test/DIGIT/. A folder that exists is left alone.
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the rooms of this clone come first, wherever it is started from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from datamodules.digit_images import write_digits
from runs.errors import UserError
from scripts.arguments import PlainParser
from scripts.main import main


def write(args: list[str]) -> int:
    """Write them as the command line says."""
    parser = PlainParser(__doc__ or "")
    parser.add_argument("folder")
    given = parser.parse_args(args)
    try:
        count = write_digits(Path(given.folder))
    except OSError as error:
        raise UserError(f"FOLDER: {error}") from error
    print(f"{count:,} images: {given.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(write))
